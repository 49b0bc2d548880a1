"""What a client of the running service sees."""

import base64
import concurrent.futures
import json

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from denoiser.model.adaptation import SMALLEST_STORE
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings
from denoiser.model.noise import add_noise
from tests.denoiser.vectors import cosines

TEXTS = ["The parcel arrived two days late.", "Whisk the eggs with sugar."]


def vectors(reply: httpx.Response) -> npt.NDArray[np.float64]:
    assert reply.status_code == 200, reply.text
    body = reply.json()
    array = np.array(body["denoised_embeddings"])
    assert body["shape"] == list(array.shape)
    assert body["processing_time_ms"] > 0
    assert set(body) == {"denoised_embeddings", "shape", "processing_time_ms"}
    return array


def rows(clean: Embeddings, count: int = 2) -> list[list[float]]:
    listed: list[list[float]] = clean[:count].tolist()
    return listed


def test_the_root_welcomes_and_points_to_the_documentation(client: httpx.Client) -> None:
    assert "/docs" in client.get("/").json()["message"]
    assert client.get("/docs").status_code == 200


def test_health_and_ping_say_that_a_model_is_loaded(client: httpx.Client) -> None:
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "healthy"
    assert health.json()["model_loaded"] is True
    assert health.json()["device"] in ("cpu", "cuda:0")
    assert client.get("/ping").status_code == client.head("/ping").status_code == 200


def test_texts_without_noise_come_back_as_their_embeddings(client: httpx.Client, clean: Embeddings) -> None:
    texts = ["The parcel arrived two days late and the box was soaked through."]
    denoised = vectors(client.post("/denoise/text", json={"texts": texts, "noise_level": 0.0}))
    assert cosines(denoised, clean[:1]) >= 0.9999


def test_clean_embeddings_come_back_in_both_modes(client: httpx.Client, clean: Embeddings) -> None:
    for mode in ("neighbours", "reconstruct"):
        denoised = vectors(client.post("/denoise/embedding", json={"embeddings": rows(clean, 100), "mode": mode}))
        assert cosines(denoised, clean[:100]).min() >= 0.999


def test_a_seed_makes_the_added_noise_reproducible(client: httpx.Client) -> None:
    body = {"texts": TEXTS, "noise_level": 0.1, "seed": 7}
    first, second, other = (
        vectors(client.post("/denoise/text", json={**body, "seed": seed})).tolist() for seed in (7, 7, 8)
    )
    assert first == second
    assert first != other


def test_without_a_seed_the_noise_differs(client: httpx.Client) -> None:
    body = {"texts": TEXTS, "noise_level": 0.1}
    first, second = (vectors(client.post("/denoise/text", json=body)).tolist() for _ in range(2))
    assert first != second


def test_invocations_takes_both_bodies(client: httpx.Client, clean: Embeddings) -> None:
    assert vectors(client.post("/invocations", json={"texts": TEXTS})).shape == (2, 384)
    assert vectors(client.post("/invocations", json={"embeddings": rows(clean, 3)})).shape == (3, 384)


def test_base64_gives_the_same_vectors(client: httpx.Client, clean: Embeddings, noise: Embeddings) -> None:
    noisy = clean[:5] + 0.1 * noise[:5]
    encoded = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in noisy]
    reply = client.post("/denoise/embedding", json={"embeddings": encoded, "encoding_format": "base64"})
    packed = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in reply.json()["denoised_embeddings"]]
    plain = vectors(client.post("/denoise/embedding", json={"embeddings": noisy.tolist()}))
    assert reply.json()["shape"] == [5, 384]
    np.testing.assert_allclose(np.stack(packed), plain, atol=1e-6)


def test_reconstruct_comes_nearer_to_the_clean_vectors(
    client: httpx.Client, clean: Embeddings, noise: Embeddings
) -> None:
    noisy = clean + 0.1 * noise
    body = {"embeddings": noisy.tolist(), "mode": "reconstruct"}
    denoised = vectors(client.post("/denoise/embedding", json=body))
    assert ((denoised - clean) ** 2).mean() < 0.0018 < ((noisy - clean) ** 2).mean()


def test_a_known_input_noise_level_is_used(client: httpx.Client, clean: Embeddings) -> None:
    body = {"embeddings": rows(clean), "mode": "reconstruct"}
    untouched = vectors(client.post("/denoise/embedding", json={**body, "input_noise_level": 0}))
    shrunk = vectors(client.post("/denoise/embedding", json={**body, "input_noise_level": 0.3}))
    np.testing.assert_allclose(untouched, clean[:2], atol=1e-6)
    assert (np.linalg.norm(shrunk, axis=1) < 0.9).all()


def test_added_and_earlier_noise_count_together(client: httpx.Client, denoiser: Denoiser, clean: Embeddings) -> None:
    body = {"embeddings": rows(clean), "noise_level": 0.3, "input_noise_level": 0.4, "mode": "reconstruct", "seed": 4}
    both = vectors(client.post("/denoise/embedding", json=body))
    once = denoiser.denoise(add_noise(clean[:2], 0.3, 4), np.full(2, 0.5), "reconstruct")
    np.testing.assert_allclose(both, once, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"noise_levle": 0.1}, "unknown field 'noise_levle'"),
        ({"": 0.1}, "unknown field ''"),
        ({"noise_level": -0.1}, "noise_level: should be greater than or equal to 0, not -0.1 (allowed: 0 to 10)"),
        ({"noise_level": 1e30}, "allowed: 0 to 10"),
        ({"noise_level": float("nan")}, "noise_level: should be a finite number, not nan"),
        ({"noise_level": "0.1"}, "noise_level: should be a valid number, not '0.1'"),
        ({"noise_level": None}, "noise_level"),
        ({"input_noise_level": -1}, 'allowed: 0 to 10 or "auto"'),
        ({"input_noise_level": "some"}, 'allowed: 0 to 10 or "auto"'),
        ({"mode": "best"}, "mode: should be 'neighbours' or 'reconstruct', not 'best'"),
        ({"seed": -1}, "seed"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"texts": []}, "texts is empty"),
        ({"texts": ["fine", " \n"]}, "texts[1] is empty"),
        ({"texts": "one"}, "texts"),
        ({"texts": ["fine", 3]}, "texts[1]"),
        ({"texts": ["word " * 30_000]}, "texts[0] has 150000 characters"),
    ],
)
def test_an_unusable_text_request_is_refused_by_name(
    client: httpx.Client, change: dict[str, object], complaint: str
) -> None:
    reply = client.post("/denoise/text", content=json.dumps({"texts": TEXTS, **change}))
    assert reply.status_code == 422
    assert complaint in reply.json()["detail"]


@pytest.mark.parametrize(
    ("embeddings", "complaint"),
    [
        ([], "embeddings is empty"),
        ([[]], "embeddings[0] has 0 columns"),
        ([[0.0] * 384, [0.0] * 383], "embeddings[1] has 383 columns"),
        ([[0.0] * 385], "embeddings[0] has 385 columns"),
        ([[0.0] * 384, [0.0] * 7 + [float("nan")] + [0.0] * 376], "embeddings[1][7] is nan (row 1, column 7)"),
        ([[float("-inf")] + [0.0] * 383], "embeddings[0][0] is -inf (row 0, column 0)"),
        ([[1e30] * 384], "embeddings[0][0] is 1e+30"),
        ([[0.0] * 383 + ["x"]], "embeddings[0][383]: should be a valid number, not 'x'"),
        ([[0.0] * 384, None], "embeddings[1]"),
        ([["0.1"] * 384], "embeddings[0]"),
        (["AAAA"], "does not fit encoding_format"),
        ({"a": 1}, "embeddings"),
    ],
)
def test_unusable_vectors_are_refused_by_row_and_column(
    client: httpx.Client, embeddings: object, complaint: str
) -> None:
    reply = client.post("/denoise/embedding", content=json.dumps({"embeddings": embeddings}))
    assert reply.status_code == 422
    assert complaint in reply.json()["detail"]


@pytest.mark.parametrize("row", ["not base64!", "AAA=", base64.b64encode(b"\0" * 8).decode()])
def test_unusable_base64_is_refused_by_row(client: httpx.Client, row: str) -> None:
    reply = client.post("/denoise/embedding", json={"embeddings": [row], "encoding_format": "base64"})
    assert reply.status_code == 422
    assert "embeddings[0]" in reply.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"texts=a", b"[1]", b"null", b'{"texts": ["a"]', b"[" * 100_000])
def test_a_body_that_is_not_a_json_object_is_refused(client: httpx.Client, body: bytes) -> None:
    reply = client.post("/invocations", content=body)
    assert reply.status_code == 422
    assert "the body" in reply.json()["detail"]


def test_a_body_with_texts_and_embeddings_is_refused(client: httpx.Client, clean: Embeddings) -> None:
    reply = client.post("/invocations", json={"texts": TEXTS, "embeddings": rows(clean)})
    assert reply.status_code == 422
    assert "both" in reply.json()["detail"]


def test_too_large_a_body_is_refused_before_it_is_parsed(client: httpx.Client) -> None:
    reply = client.post("/denoise/embedding", content=b"[" * 2_000_001)
    assert reply.status_code == 413
    assert "2000000" in reply.json()["detail"]


def test_too_many_rows_are_refused(client: httpx.Client) -> None:
    reply = client.post("/denoise/embedding", json={"embeddings": [[0.0] * 384] * 201})
    assert reply.status_code == 413
    assert "201 rows; at most 200" in reply.json()["detail"]
    assert client.post("/denoise/text", json={"texts": ["a"] * 513}).status_code == 413


def test_zero_vectors_are_answered_with_finite_numbers(client: httpx.Client) -> None:
    for level in (0.0, 0.1, 10.0):
        body = {"embeddings": [[0.0] * 384, [1000.0] * 384], "noise_level": level}
        assert np.isfinite(vectors(client.post("/denoise/embedding", json=body))).all()


def test_many_clients_at_once_get_their_own_answers(client: httpx.Client, clean: Embeddings) -> None:
    def ask(i: int) -> npt.NDArray[np.float64]:
        body = {"embeddings": [clean[i].tolist()]}
        return vectors(client.post("/denoise/embedding", json=body)).reshape(384)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = np.stack(list(pool.map(ask, range(48))))
    np.testing.assert_allclose(answers, clean[:48], atol=1e-6)


def test_rows_of_one_request_help_each_other_and_those_of_others_do_not(
    client: httpx.Client, denoiser: Denoiser, clean: Embeddings
) -> None:
    noisy = add_noise(np.concatenate([clean, clean]), 0.1, 1)
    sizes = (SMALLEST_STORE, *(SMALLEST_STORE // 4,) * 6)  # the small ones wait for the first, and share a batch

    def ask(size: int) -> npt.NDArray[np.float64]:
        return vectors(client.post("/denoise/embedding", json={"embeddings": rows(noisy, size)}))

    with concurrent.futures.ThreadPoolExecutor(len(sizes)) as pool:
        answers = list(pool.map(ask, sizes))
    for size, answer in zip(sizes, answers, strict=True):
        np.testing.assert_allclose(answer, denoiser.denoise(noisy[:size]), atol=1e-5)
    assert np.abs(answers[0] - denoiser.denoise(noisy[:SMALLEST_STORE], together=False)).max() > 0.001


def test_metrics_count_requests_and_rows(client: httpx.Client) -> None:
    client.post("/denoise/text", json={"texts": TEXTS})
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert 'denoiser_requests_total{route="/denoise/text",status="200"}' in page.text
    assert "# HELP denoiser_rows_total Embeddings in replies, denoised or not." in page.text
    assert "denoiser_ready 1.0" in page.text


def test_unknown_routes_and_methods_are_refused_in_the_same_shape(client: httpx.Client) -> None:
    assert client.get("/nowhere").json() == {"detail": "Not Found"}
    assert client.get("/denoise/text").status_code == 405


def test_the_openapi_document_describes_the_bodies(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    body = paths["/denoise/text"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"texts", "noise_level", "input_noise_level", "mode", "seed"} <= set(body["properties"])

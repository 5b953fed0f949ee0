"""A server of the LLaMA family continues a clip as we do: token ids in, token ids out."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch

from tests.tiny import save_tokenizer
from toto.generation.sampling import Sampling, sample
from toto.models.llama import Llama
from toto.models.saved import save_model
from toto.models.sizes import LlamaSize
from toto.tokens.vocabulary import VIDEO, Vocabulary

EXAMPLE = Path(__file__).parents[2] / "examples" / "write_gguf.py"
VOCABULARY = Vocabulary(codebook_size=500, rows=4, cols=4)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_llama_cpp_continues_as_we_do(tmp_path, tied):
    pytest.importorskip("gguf", reason="pip install gguf")
    llama_cpp = pytest.importorskip("xllamacpp", reason="pip install xllamacpp")
    torch.manual_seed(1)
    size = LlamaSize(width=128, layers=3, heads=4, mlp_width=160, init_std=0.1, tied_head=tied)
    model = Llama(size, VOCABULARY.size).eval()
    for name, value in model.named_parameters():
        if "norm" in name:
            value.copy_(torch.rand_like(value) + 0.5)
    save_tokenizer(tmp_path / "tokenizer")
    details = {"vocabulary": VOCABULARY.to_dict(), "frames": 8}
    save_model(model, details, tmp_path / "tokenizer", tmp_path / "model")
    written = [EXAMPLE, tmp_path / "model", tmp_path / "model.gguf"]
    subprocess.run([sys.executable, *written], check=True, timeout=60)

    parameters = llama_cpp.CommonParams()
    parameters.model.path = str(tmp_path / "model.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.port = 128, 1, 0
    parameters.hostnames = ["127.0.0.1"]
    # With its own defaults, half precision and another order of sums, near ties fall otherwise.
    parameters.cache_type_k = parameters.cache_type_v = llama_cpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = llama_cpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = llama_cpp.Server(parameters)

    codes = torch.randint(0, 500, (1, 2, 4, 4))
    prompt = torch.cat((torch.tensor([[VIDEO]]), VOCABULARY.tokens(codes)), dim=1)
    expected = sample(model, VOCABULARY, prompt, 48, Sampling(temperature=0.0))[0].tolist()
    body = {
        "prompt": prompt[0].tolist(),
        "n_predict": 48,
        "temperature": 0,
        "return_tokens": True,
        "logit_bias": [
            [i, False]
            for i in json.loads((tmp_path / "model" / "generation_config.json").read_text())[
                "suppress_tokens"
            ]
        ],
    }
    request = urllib.request.Request(
        f"{server.listening_address}/completion",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["tokens"] == expected
    assert len(set(expected)) > 10

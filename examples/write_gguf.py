"""Write a saved model as GGUF, for llama.cpp: python examples/write_gguf.py MODEL OUT.gguf

llama.cpp serves no model without a text tokenizer: each id is given a name, <0>, <1>, ...
Needs the packages gguf and safetensors.
"""

import json
import sys
from pathlib import Path

import gguf
from safetensors.numpy import load_file

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
config = json.loads((folder / "config.json").read_text())
rows, heads = config["vocab_size"], config["num_attention_heads"]
writer = gguf.GGUFWriter(out, "llama")
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_block_count(config["num_hidden_layers"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(heads)
writer.add_rope_freq_base(config["rope_theta"])
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_tokenizer_model("llama")
writer.add_token_list([f"<{i}>" for i in range(rows)])
writer.add_token_scores([0.0] * rows)
writer.add_token_types([gguf.TokenType.USER_DEFINED] * rows)
writer.add_add_bos_token(False)
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
for name, value in load_file(folder / "model.safetensors").items():
    if name.endswith(("q_proj.weight", "k_proj.weight")):  # it rotates pairs of neighbours
        value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
    writer.add_tensor(names.get_name(name, (".weight",)), value.copy())
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

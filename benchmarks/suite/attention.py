"""Attention with sinks: functions forward and backward, a token of a stream, and the meter beside full maps."""

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

from otkit.attention import SinkCache, SinkMeter, attach, grouped_attention, sink_attention


def small():
    """A model of 4 layers with random weights."""
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    return AutoModelForCausalLM.from_config(transformers.LlamaConfig(vocab_size=1000, **shape)).eval()


class Functions:
    """Forward and backward pass, 8 heads of 64 that share 2 keys, beside causal attention without sinks."""

    param_names = ["function", "tokens"]
    params = [["sink_attention", "grouped_attention", "sdpa"], [1024, 2048]]

    def setup(self, function, tokens):
        torch.manual_seed(0)
        self.inputs = [torch.randn(1, heads, tokens, 64, requires_grad=True) for heads in (8, 2, 2)]
        sink = torch.zeros(8, requires_grad=True)
        self.call = {
            "sink_attention": lambda q, k, v: sink_attention(q, k, v, sink),
            "grouped_attention": lambda q, k, v: grouped_attention(q, k, v, group=512),
            "sdpa": lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
                q, k.repeat_interleave(4, 1), v.repeat_interleave(4, 1), is_causal=True
            ),
        }[function]
        self.time_both(function, tokens)

    def time_both(self, function, tokens):
        self.call(*self.inputs).sum().backward()

    def peakmem_both(self, function, tokens):
        self.call(*self.inputs).sum().backward()


class Stream:
    """A token after many, in a cache of 256 keys or in one that keeps all."""

    param_names = ["cache", "seen"]
    params = [["SinkCache", "DynamicCache"], [256, 2048, 8192]]
    number, repeat = 20, 5

    def setup(self, cache, seen):
        self.model = small()
        self.cache = (
            SinkCache(self.model, window=252) if cache == "SinkCache" else DynamicCache(config=self.model.config)
        )
        self.ids = torch.arange(64)[None]
        with torch.no_grad():
            for _ in range(seen // 64):
                self.model(self.ids, None, None, self.cache)  # named by place: its name differs between versions

    def time_token(self, cache, seen):
        with torch.no_grad():
            self.model(self.ids[:, :1], None, None, self.cache)

    def track_kib(self, cache, seen):
        return sum(x.nbytes for layer in self.cache.layers for x in (layer.keys, layer.values)) / 2**10

    track_kib.unit = "KiB"


class Meter:
    """The metric of 2,048 tokens, beside a pass that is not read and beside one that returns its maps."""

    param_names = ["way"]
    params = [["SinkMeter", "not read", "output_attentions"]]

    def setup(self, way):
        self.model, self.ids = small(), torch.arange(2048)[None] % 1000
        self.model.set_attn_implementation("eager" if way == "output_attentions" else "sdpa")

    def run(self, way):
        with torch.no_grad():
            if way == "SinkMeter":
                with attach(self.model, SinkMeter()):
                    self.model(self.ids, use_cache=False)
            else:
                self.model(self.ids, use_cache=False, output_attentions=way == "output_attentions")

    def time_pass(self, way):
        self.run(way)

    def peakmem_pass(self, way):
        self.run(way)

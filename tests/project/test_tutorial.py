"""irpe.py and rpe_ops/ in somebody else's project: two copies and five lines."""

import shutil

from tests.helpers.commands import ROOT, run_ok

THEIR_BLOCK = """
import torch
from torch import nn
from irpe import get_rpe_config, build_rpe

class Attention(nn.Module):
    def __init__(self, dim=32, num_heads=4, rpe_on="k", mode="ctx"):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        config = get_rpe_config(ratio=1.9, method="product", mode=mode, shared_head=True,
                                skip=1, rpe_on=rpe_on)
        self.rpe_q, self.rpe_k, self.rpe_v = build_rpe(config, dim // num_heads, num_heads)

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q = q * self.scale
        attn = q @ k.transpose(-2, -1)
        if self.rpe_k is not None: attn += self.rpe_k(q)
        if self.rpe_q is not None: attn += self.rpe_q(k * self.scale).transpose(2, 3)
        attn = attn.softmax(dim=-1)
        out = attn @ v
        if self.rpe_v is not None: out += self.rpe_v(attn)
        return self.proj(out.transpose(1, 2).reshape(B, N, C))

for rpe_on, mode in (("k", "ctx"), ("qkv", "ctx"), ("qk", "bias")):
    block = Attention(rpe_on=rpe_on, mode=mode)
    tokens = torch.randn(2, 1 + 14 * 14, 32, requires_grad=True)
    before = block(tokens)
    for name, parameter in block.named_parameters():
        if "lookup_table" in name:
            nn.init.normal_(parameter)
    assert not torch.allclose(block(tokens), before), "the encoding has no effect"
    block(tokens).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    assert block.rpe_k.settings.num_buckets == 50
print("trained a block")
"""


def test_two_copies_and_five_lines(tmp_path):
    shutil.copy(ROOT / "models" / "rpe_attention" / "irpe.py", tmp_path)
    shutil.copytree(ROOT / "rpe_ops", tmp_path / "rpe_ops")
    (tmp_path / "train.py").write_text(THEIR_BLOCK)
    result = run_ok("train.py", cwd=tmp_path, env={"PYTHONPATH": ""})
    assert "trained a block" in result.stdout

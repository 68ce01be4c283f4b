"""torch.nn.MultiheadAttention with image relative position encoding."""

from torch import Tensor, nn

from .irpe import RPEConfig, build_rpe
from .rpe_attention_function import ATTENTION, project_heads, rpe_multi_head_attention_forward


class RPEMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention whose logits and output know where tokens lie in the image.

    Parameters and their names are those of torch.nn.MultiheadAttention, plus the submodules
    `rpe_q`, `rpe_k`, `rpe_v`. Tensors are (L, B, E). `attention` is how it is computed: auto,
    sdpa, fused or math.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        rpe_config: RPEConfig | None = None,
        attention: str = "auto",
    ):
        if rpe_config is not None and (add_bias_kv or add_zero_attn):
            raise ValueError("add_bias_kv and add_zero_attn add keys that have no position")
        if attention not in ATTENTION:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, is {attention!r}")
        super().__init__(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim
        )
        self.attention = attention
        self.rpe_q, self.rpe_k, self.rpe_v = build_rpe(rpe_config, self.head_dim, num_heads)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        hw: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See `rpe_multi_head_attention_forward` for shapes, masks and errors."""
        return rpe_multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=not self._qkv_same_embed_dim,
            q_proj_weight=self.q_proj_weight,
            k_proj_weight=self.k_proj_weight,
            v_proj_weight=self.v_proj_weight,
            rpe_q=self.rpe_q,
            rpe_k=self.rpe_k,
            rpe_v=self.rpe_v,
            hw=hw,
            attention=self.attention,
        )

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of each head, (B, H, L, D), as `forward` has them; see `project_heads`."""
        return project_heads(
            query,
            key,
            value,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            not self._qkv_same_embed_dim,
            self.q_proj_weight,
            self.k_proj_weight,
            self.v_proj_weight,
        )

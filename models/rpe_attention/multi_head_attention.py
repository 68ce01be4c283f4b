"""torch.nn.MultiheadAttention with an encoding of relative positions."""

from torch import Tensor, nn

from rpe_ops.attention import ATTENTION
from rpe_ops.irpe import build_rpe

from .continuous_bias import ContinuousBias, ContinuousBiasConfig
from .enc_rpe2d import Encoding
from .rotary import RotaryConfig, build_rotary
from .rpe_attention_function import Projections, Size, project_heads, rpe_attention


class RPEMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention with image relative position encoding on queries, keys and values.

    Or with another encoding of one map's tokens. Parameters and their names are those of
    torch.nn.MultiheadAttention, plus those of the submodules that the encoding has, which are None
    otherwise: `rpe_q`, `rpe_k`, `rpe_v` of iRPE, `rope` of rotary encoding (`rotary`), `cpb` of
    continuous bias (`continuous_bias`). Tensors are (L, B, E).

    Args:
        rpe_config: from `get_rpe_config` or `enc_rpe2d.parse_encoding`; None for no encoding.
        attention: how it is computed, see `rpe_attention_function.rpe_attention`.
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
        rpe_config: Encoding | None = None,
        attention: str = "auto",
    ):
        if rpe_config is not None and (add_bias_kv or add_zero_attn):
            raise ValueError(
                "RPE excludes add_bias_kv and add_zero_attn: they add keys without position"
            )
        if attention not in ATTENTION:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, is {attention!r}")
        super().__init__(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim
        )
        self.attention = attention
        self.rope = self.cpb = None
        if isinstance(rpe_config, RotaryConfig):
            self.rope = build_rotary(rpe_config, self.head_dim, num_heads)
            rpe_config = None
        elif isinstance(rpe_config, ContinuousBiasConfig):
            self.cpb = ContinuousBias(num_heads, rpe_config.hidden)
            rpe_config = None
        self.rpe_q, self.rpe_k, self.rpe_v = build_rpe(rpe_config, self.head_dim, num_heads)

    def forward(  # type: ignore[override]  # hw instead of averaged weights and is_causal
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        hw: Size | tuple[Size, Size] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention; see `rpe_attention` for shapes, masks and errors."""
        return rpe_attention(
            query,
            key,
            value,
            self.projections(),
            self.out_proj.weight,
            self.out_proj.bias,
            dropout_p=self.dropout if self.training else 0.0,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            rpe_q=self.rpe_q,
            rpe_k=self.on_keys,
            rpe_v=self.rpe_v,
            hw=hw,
            attention=self.attention,
            rope=self.rope,
        )

    @property
    def on_keys(self) -> nn.Module | None:
        """What is called as RPE on keys: that, or the continuous bias, or nothing."""
        return self.rpe_k if self.cpb is None else self.cpb

    def projections(self) -> Projections:
        """Return the parameters that make q, k and v of each head."""
        return Projections(
            self.num_heads,
            self.in_proj_weight,  # None with kdim or vdim of their own
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.q_proj_weight,
            self.k_proj_weight,
            self.v_proj_weight,
        )

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project (L, B, E) to q, k, v of each head, (B, H, L, D); q is scaled by 1 / sqrt(D).

        Rotary encoding, if there is any, has not turned them yet.
        """
        q, k, v = project_heads(query, key, value, self.projections())
        return q * q.shape[-1] ** -0.5, k, v

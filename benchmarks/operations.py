"""How much arithmetic one step of one member needs: the numerator of every GFLOP/s here."""

from __future__ import annotations

from compfast.config import ModelConfig


def step_flops(model: ModelConfig, positions: int, batch_size: int) -> int:
    """Floating-point operations of one training step, GEMM and attention of the pruned step.

    Multiply-adds a sequence of T tokens, where layer l answers q positions (q = T; in the last
    layer 1, when the loss reads the last position only), H heads, D = d_model:

        K, V        T D H (d_k + d_v)
        Q, O        q D H (d_k + d_v)
        scores, PV  q T H (d_k + d_v)      (masked entries counted: the usual convention)
        FFN         2 q D d_ff
        head        D V, once an answered position

    times 3 for forward and backward (dX and dW), 2 flops a multiply-add, `batch_size`
    sequences. Norms, softmax, embeddings, data and AdamW are not counted; peers that compute
    more than this get no credit for it.
    """
    d, ff = model.d_model, model.d_ff or 0
    head_columns = model.heads * ((model.d_k or 0) + (model.d_v or 0))
    answered = positions
    total = 0
    for layer in range(model.layers):
        last = layer == model.layers - 1 and model.loss_positions == "last"
        answered = 1 if last else positions
        total += (positions + answered) * d * head_columns
        total += answered * positions * head_columns
        total += 2 * answered * d * ff
    total += answered * d * (model.vocab_size or 0)
    return 3 * 2 * total * batch_size

"""Export a folder's network to ONNX, fp32: `python -m ... FOLDER FILE.onnx`.

In a process of its own, so that torch and its memory are gone when ONNX Runtime is measured.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel

EXAMPLE_SHAPE = (2, 16)


class HiddenStates(nn.Module):
    """The network without the head that pools: from two named inputs to one output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`[batch, length]` twice to `[batch, length, hidden]`."""
        hidden: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return hidden


def export(folder: Path, target: Path) -> None:
    """Write `target`, and beside it the weights."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    mask = torch.ones(EXAMPLE_SHAPE, dtype=torch.long)
    mask[1, 9:] = 0  # a mask of ones alone would be taken for a constant
    length = torch.export.Dim("length", min=2, max=model.config.max_position_embeddings)
    dynamic = {0: torch.export.Dim("batch", min=1, max=4096), 1: length}
    torch.onnx.export(
        HiddenStates(model),
        (torch.randint(5, 1000, EXAMPLE_SHAPE), mask),
        str(target),
        dynamo=True,
        external_data=True,
        input_names=["input_ids", "attention_mask"],
        output_names=["hidden"],
        dynamic_shapes={"input_ids": dynamic, "attention_mask": dynamic},
    )


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))

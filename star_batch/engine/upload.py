"""From the host to a device without waiting for it. Knows nothing but tensors."""

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device, in order with what runs there next."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # only from pinned memory does a copy not wait
    return tensor.to(device, non_blocking=True)

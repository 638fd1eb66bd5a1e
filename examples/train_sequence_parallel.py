"""Trains a toy language model on one sequence that is cut over all ranks.

    torchrun --nproc-per-node 4 examples/train_sequence_parallel.py

Every rank holds the whole model and its rows of the sequence; only attention sees the others'
keys and values. The losses are those of one process (--nproc-per-node 1), to rounding. NCCL where
there are GPUs, gloo where there are none.
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

import warploom as wl
from warploom.methods import tasp


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor, part: tasp.Sharding, schedule: str) -> torch.Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3 * self.heads, -1)).chunk(3, dim=-2)
        o = tasp.ring_attention(q, k, v, sharding=part, mask=wl.mask.causal(), schedule=schedule)
        x = x + self.out(o.flatten(-2))
        return x + self.mlp(self.norms[1](x))


class Model(nn.Module):
    def __init__(self, tokens: int, length: int, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(2)])
        self.head = nn.Linear(width, tokens)

    def forward(self, ids: torch.Tensor, part: tasp.Sharding, schedule: str) -> torch.Tensor:
        x = self.token(ids) + self.position(part.positions.to(ids.device))
        for block in self.blocks:
            x = block(x, part, schedule)
        return self.head(x)


def train(length: int, steps: int, schedule: str, device: torch.device) -> list[float]:
    """The loss of every step; every rank of the default process group takes part."""
    text = torch.tensor(list("".join(f"{n} times {n} is {n * n}. " for n in range(200)).encode()))
    if not 1 <= length < len(text):
        raise ValueError(f"length is {length}: must be 1 to {len(text) - 1}, what the text has")
    text = text[: length + 1].to(device)
    part = tasp.Sharding(length, layout="zigzag")
    ids, wanted = part.shard(text[None, :-1]), part.shard(text[None, 1:])

    torch.manual_seed(0)  # the same model on every rank
    model = Model(tokens=128, length=length).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for step in range(steps):
        logits = model(ids, part, schedule)
        # The mean over the whole sequence: each rank's rows add their share.
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum") / length
        optimizer.zero_grad()
        loss.backward()
        total = loss.detach()
        for share in (total, *(p.grad for p in model.parameters())):
            dist.all_reduce(share)
        optimizer.step()
        losses.append(total.item())
        if dist.get_rank() == 0:
            print(f"step {step} loss {total.item():.7f}", flush=True)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--length", type=int, default=1021)  # up to the text's: nothing is padded
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--schedule", default="auto")
    args = parser.parse_args()
    dist.init_process_group()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
    train(args.length, args.steps, args.schedule, device)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

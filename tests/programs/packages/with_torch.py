"""PyTorch: a DataLoader with two workers and a start method, and tensors that torch.multiprocessing shares."""

import sys

import torch
import torch.multiprocessing
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

torch.set_num_threads(1)


class Squares(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.full((64,), float(index)), index * index


class Stream(IterableDataset):
    def __iter__(self):
        worker = get_worker_info()
        return iter(range(worker.id, 20, worker.num_workers))


class Broken(Squares):
    def __getitem__(self, index):
        # Late, so that each worker has begun: torch complains of one that is ended before.
        if index >= 30:
            raise LookupError(f"there is no {index}")
        return super().__getitem__(index)


def prepare(worker):
    torch.manual_seed(worker)


def change(tensor, queue):
    tensor += 1
    queue.put(tensor * 2)
    # The queue's other end has the tensor's memory before this process ends.
    queue.join()


def train(rank, weights):
    for _ in range(10):
        weights[rank] += 1


def main(method):
    loader = DataLoader(Squares(), batch_size=8, num_workers=2, multiprocessing_context=method, worker_init_fn=prepare, persistent_workers=True)
    for _ in range(2):
        print([(batch.sum().item(), squares.tolist()) for batch, squares in loader])
    del loader
    print(sorted(DataLoader(Stream(), batch_size=None, num_workers=2, multiprocessing_context=method)))
    try:
        list(DataLoader(Broken(), num_workers=2, multiprocessing_context=method))
    except LookupError as error:
        print(type(error).__name__, "there is no 30" in str(error))
    context = torch.multiprocessing.get_context(method)
    tensor, queue = torch.zeros(1000).share_memory_(), context.JoinableQueue()
    child = context.Process(target=change, args=(tensor, queue))
    child.start()
    print(queue.get().sum().item(), tensor.sum().item())
    queue.task_done()
    child.join()
    weights = torch.zeros(2).share_memory_()
    torch.multiprocessing.start_processes(train, (weights,), nprocs=2, start_method=method)
    print(weights.tolist(), child.exitcode)
    with context.Pool(2) as pool:
        print([result.tolist() for result in pool.map(torch.square, [torch.ones(2) * number for number in range(3)])])


if __name__ == "__main__":
    main(sys.argv[1])

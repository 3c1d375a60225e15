"""Does this training meet the theory's assumptions? Train a small network on digits, then ask in three lines."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from empirical import check_assumptions

torch.manual_seed(0)
torch.set_num_threads(1)
digits = load_digits()
images = torch.tensor(digits.data[:512] / 16, dtype=torch.float32)
loader = DataLoader(TensorDataset(images, torch.tensor(digits.target[:512])), batch_size=64, shuffle=True)
model = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2)
for _ in range(20):
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

loss = nn.CrossEntropyLoss(reduction="none")
report = check_assumptions(model, loss, loader, from_optimizer=optimizer, top_k=5)
print(report)

import pytest
import torch

from t2ilab.data.joined import Joined, JoinedRows
from t2ilab.data.source import Source


class Numbers(Source):
    """The smallest source and provider at once: row i of the one named n is 100 n + i, seen in its epoch."""

    resolution = 2

    def __init__(self, name, size, odds=None):
        self.name, self.size, self.odds, self.asked = name, size, odds, 0

    def __len__(self):
        return self.size

    def images(self, indices):
        values = torch.tensor([100 * self.name + i for i in indices], dtype=torch.uint8)
        return values.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    def captions(self, index):
        return [f"{self.name}-{index}", "another"]

    def weights(self, index):
        return self.odds

    def digest(self):
        return f"numbers {self.name} {self.size}"

    def fetch(self, indices, epochs):
        self.asked += 1
        return {"x": torch.tensor([100 * self.name + i for i in indices]), "epoch_of": torch.tensor(epochs)}


def test_rows_of_several_providers_come_in_the_order_asked_for_with_their_epochs():
    parts = [Numbers(0, 3), Numbers(1, 4), Numbers(2, 2)]
    rows = JoinedRows(parts)
    assert len(rows) == 9
    found = rows.fetch([8, 0, 3, 6, 2, 7], [1, 2, 3, 4, 5, 6])
    assert found["x"].tolist() == [201, 0, 100, 103, 2, 200]
    assert found["epoch_of"].tolist() == [1, 2, 3, 4, 5, 6]
    assert [part.asked for part in parts] == [1, 1, 1]
    assert rows.fetch([5, 4], [0, 0])["x"].tolist() == [102, 101]
    assert [part.asked for part in parts] == [1, 2, 1]


def test_the_same_provider_may_come_twice():
    part = Numbers(1, 3)
    assert JoinedRows([part, part]).fetch([0, 3, 5], [0, 0, 0])["x"].tolist() == [100, 100, 102]


def test_sources_are_counted_one_behind_the_other():
    joined = Joined([Numbers(0, 3), Numbers(1, 2, odds=[1.0, 0.0])])
    assert len(joined) == 5 and joined.resolution == 2
    assert joined.images([4, 0, 3, 2])[:, 0, 0, 0].tolist() == [101, 0, 100, 2]
    assert [joined.captions(index)[0] for index in range(5)] == ["0-0", "0-1", "0-2", "1-0", "1-1"]
    assert [joined.weights(index) for index in (2, 3)] == [None, [1.0, 0.0]]


@pytest.mark.parametrize(
    "other", [[Numbers(1, 2), Numbers(0, 3)], [Numbers(0, 3)], [Numbers(0, 3), Numbers(1, 3)]]
)
def test_the_digest_knows_the_sources_and_their_order(other):
    assert Joined([Numbers(0, 3), Numbers(1, 2)]).digest() != Joined(other).digest()

import torch

from t2ilab.core.tables import Tables


def test_a_table_is_copied_to_a_device_once_and_stays_where_it_was():
    first, second = torch.arange(3), torch.ones(2)
    tables = Tables(first, second)
    there = tables.on(torch.device("meta"))
    assert [values.device.type for values in there] == ["meta", "meta"]
    assert tables.on(torch.device("meta")) is there
    assert tables.on(torch.device("cpu")) == (first, second)

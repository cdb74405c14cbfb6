"""A frozen network is nowhere but on the right device."""

import copy
import pickle

import torch
from torch import nn

from t2ilab.core.frozen import Frozen


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.teacher = Frozen(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))


def test_it_has_no_parameters_no_state_and_no_children():
    student = Student()
    assert {name for name, _ in student.named_parameters()} == {"own.weight", "own.bias"}
    assert set(student.state_dict()) == {"own.weight", "own.bias"}
    assert all("0" not in name for name, _ in student.named_modules())
    student.load_state_dict(student.state_dict(), strict=True)


def test_it_moves_and_casts_with_its_owner():
    student = Student().to(torch.float64)
    assert student.teacher.module[0].weight.dtype == torch.float64
    assert student.to("meta").teacher.module[0].weight.device.type == "meta"


def test_it_stays_in_evaluation_mode_without_gradients():
    student = Student().train().requires_grad_(True)
    assert student.own.training and student.own.weight.requires_grad
    assert not student.teacher.training
    assert not any(module.training for module in student.teacher.module.modules())
    assert not any(p.requires_grad for p in student.teacher.module.parameters())


def test_gradients_pass_through_to_the_input():
    x = torch.randn(3, 2, requires_grad=True)
    Student().teacher(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_a_deep_copy_shares_the_network():
    student = Student()
    twin = copy.deepcopy(student)
    assert twin.own is not student.own
    assert twin.teacher is not student.teacher
    assert twin.teacher.module is student.teacher.module


def test_it_survives_pickling():
    frozen = Student().teacher
    x = torch.randn(2, 2)
    assert torch.equal(pickle.loads(pickle.dumps(frozen))(x), frozen(x))

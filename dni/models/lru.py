"""The linear recurrent unit: a complex diagonal recurrence between two linear maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dni.models.scan import run_scan, scan
from dni.recurrent import Recurrent, Slopes, UnitParameter
from dni.types import State


class LRU(Recurrent):
    """The linear recurrent unit (Orvieto et al. 2023, arXiv 2303.06349):

        h_t = lambda h_{t-1} + exp(gamma) B x_t,    y_t = Re(C h_t) + d x_t,    lambda = exp(-exp(nu) + i exp(theta))

    h_t, lambda, B and C are complex; products with lambda, exp(gamma) and d are element-wise. The state is (real part,
    imaginary part), each (1, B, units).

    Args:
        inputs: D, size of x_t and y_t.
        units: complex numbers of the state.
        smallest: smallest abs(lambda) at first; lambda is uniform in a ring.
        largest: largest abs(lambda) at first.
        phase: largest angle of lambda at first, in radians.
    """

    def __init__(
        self, inputs: int, units: int, *, smallest: float = 0.0, largest: float = 1.0, phase: float = 2 * math.pi
    ) -> None:
        super().__init__()
        self.units = units
        square = torch.rand(units) * (largest**2 - smallest**2) + smallest**2
        square = square.clamp(1e-6, 1 - 1e-6)
        self.nu = UnitParameter(torch.log(-torch.log(square) / 2))
        self.theta = UnitParameter(torch.log((phase * torch.rand(units)).clamp_min(1e-6)))
        self.gamma = UnitParameter(torch.log1p(-square) / 2)  # so that abs(h_t) is as large for every lambda
        self.drive = nn.Linear(inputs, 2 * units, bias=False)  # rows of the real parts of B, then the imaginary ones
        self.out = nn.Linear(2 * units, inputs, bias=False)  # columns of the real parts of C, then minus the imaginary
        self.skip = nn.Parameter(torch.randn(inputs))
        nn.init.normal_(self.drive.weight, std=1 / math.sqrt(2 * inputs))
        nn.init.normal_(self.out.weight, std=1 / math.sqrt(units))

    def initial_state(self, batch: int) -> State:
        """Return zeros."""
        zeros = self.skip.new_zeros(1, batch, self.units)
        return zeros, zeros

    def traced(self) -> tuple[nn.Module, ...]:
        return self.nu, self.theta, self.gamma, self.drive

    def slopes(self, outputs: Sequence[Tensor], state: State) -> Slopes:
        """With h_T = lambda^T h_0 + sum_t lambda^(T - t) exp(gamma) B x_t, and all parameters the same in every row."""
        nu, theta, gamma, driven = *(each[:1] for each in outputs[:3]), outputs[3]
        (real,), (imaginary,) = state
        initial, decay = torch.complex(real, imaginary), torch.polar(torch.exp(-torch.exp(nu)), torch.exp(theta))
        drive = torch.exp(gamma) * torch.complex(*driven.to(decay.real.dtype).chunk(2, dim=-1))
        states = run_scan(decay.unsqueeze(1), drive, initial)
        powers = decay.expand(drive.shape[1], -1).cumprod(0)  # of lambda, from the first one to the one of T
        later = torch.cat([powers[:-1].flip(0), torch.ones_like(decay)])  # of lambda^(T - t)
        # sum_t lambda^(T - t + 1) h_(t - 1), which is lambda dh_T/dlambda
        past = decay * (later * torch.cat([initial.unsqueeze(1), states[:, :-1]], dim=1)).sum(1)
        by_gamma = states[:, -1] - powers[-1] * initial
        by_unit = (-torch.exp(nu) * past, 1j * torch.exp(theta) * past, by_gamma)
        by_drive = (torch.exp(gamma) * later).unsqueeze(0)
        return Slopes(powers[-1:], (*(each.unsqueeze(1) for each in by_unit), by_drive))

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, inputs) -> (B, T, inputs) and the state after the window; an empty state is zeros."""
        (real,), (imaginary,) = state or self.initial_state(len(x))
        batch = len(x)
        decay = torch.polar(torch.exp(-torch.exp(self.nu(batch))), torch.exp(self.theta(batch)))
        driven = self.drive(x).to(decay.real.dtype)  # 16 bits, which autocast gives, have no complex numbers
        gain = torch.exp(self.gamma(batch)).unsqueeze(1)
        parts = torch.complex(*driven.chunk(2, dim=-1))
        h = scan(decay.unsqueeze(1), gain * parts, torch.complex(real, imaginary))
        y = self.out(torch.cat([h.real, h.imag], dim=-1)) + self.skip * x
        return y, (h.real[:, -1].unsqueeze(0), h.imag[:, -1].unsqueeze(0))

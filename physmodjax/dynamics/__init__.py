"""Recurrences, linear and not, and recurrent cells and networks."""

from physmodjax.dynamics.base import BaseModalDynamics, LinearRecurrence, Recurrence
from physmodjax.dynamics.cells import (
    CELLS,
    GRUCell,
    GRUKeepCell,
    GRUResetAfterCell,
    LSTMCell,
    MGUCell,
    RNNCell,
    URLSTMCell,
    carry_from_hidden,
    make_cell,
)
from physmodjax.dynamics.control import Controller, closed_loop, score_function
from physmodjax.dynamics.lru import (
    LRUDynamics,
    LRUDynamicsModulated,
    LRUDynamicsVarying,
    gamma_log_init,
    matrix_init,
    nu_init,
    theta_init,
)
from physmodjax.dynamics.modal import (
    DiscreteModalDynamics,
    DiscreteModalDynamicsAngleMag,
    DiscreteModalDynamicsVarying,
    constrain_to_unit_circle,
    init_complex,
    init_real_imag,
)
from physmodjax.dynamics.oscillator import OscillatorDynamics, Physics, parameters_of, physics_of
from physmodjax.dynamics.rnn import (
    BatchedDeepRNN,
    DeepRNN,
    RNNLayer,
    StackedRNN,
    initial_state_penalty,
    masked_mean,
    sequence_mask,
)
from physmodjax.dynamics.s5 import S5Dynamics

__all__ = [
    "BaseModalDynamics",
    "BatchedDeepRNN",
    "CELLS",
    "Controller",
    "DeepRNN",
    "DiscreteModalDynamics",
    "DiscreteModalDynamicsAngleMag",
    "DiscreteModalDynamicsVarying",
    "GRUCell",
    "GRUKeepCell",
    "GRUResetAfterCell",
    "LRUDynamics",
    "LRUDynamicsModulated",
    "LRUDynamicsVarying",
    "LSTMCell",
    "LinearRecurrence",
    "MGUCell",
    "OscillatorDynamics",
    "Physics",
    "RNNCell",
    "RNNLayer",
    "Recurrence",
    "S5Dynamics",
    "StackedRNN",
    "URLSTMCell",
    "carry_from_hidden",
    "closed_loop",
    "constrain_to_unit_circle",
    "gamma_log_init",
    "init_complex",
    "init_real_imag",
    "initial_state_penalty",
    "make_cell",
    "masked_mean",
    "matrix_init",
    "nu_init",
    "parameters_of",
    "physics_of",
    "score_function",
    "sequence_mask",
    "theta_init",
]

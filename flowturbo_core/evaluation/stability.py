"""How straight a sampling trajectory is: FlowTurbo's reason why a refiner can be so small."""

from torch import Tensor


def curvature(v_before: Tensor, v: Tensor, dt: float) -> Tensor:
    """Return the curvature (B,) of the paths x(t) whose velocity goes from `v_before` to `v`.

    kappa = |a - (a . u) u| / |v|^2 with a = dv/dt and u = v / |v|, which is one over the radius
    of the circle that touches the path, in the units of x; what turns the velocity counts, not
    what makes it longer. FlowTurbo's figure 1 plots it (2409.18128). Velocities are (B, ...),
    `dt` the time between them; v and a are taken in its middle. Zero where the velocity is zero.
    """
    middle = ((v_before + v) / 2).flatten(1).double()
    acceleration = ((v - v_before) / dt).flatten(1).double()
    speed_squared = middle.square().sum(1).clamp_min(1e-30)
    along = (acceleration * middle).sum(1) / speed_squared
    across = acceleration - along[:, None] * middle
    return across.norm(dim=1) / speed_squared

"""Which integrator next: a policy that compares the rates at which methods get on."""

from dataclasses import dataclass, field

STABILISED, EXPLICIT, IMPLICIT = "stabilised", "DOP853", "Radau"
# Above this rtol RKC2 reaches an error with fewer gradients than TSRKC3.
LOOSE = 3e-4
# Below this one the first transient is DOP853's.
TIGHT = 1e-4
# Units that a method is given before it is judged, and before another is tried again; the latter
# is doubled each time that the other turns out worse.
TRIAL = 60
# A switch costs a start: only for a rate so much better.
BETTER = 1.2
# Units of a step of Radau beside its Jacobian's 2n, and its step over a stabilised method's.
RADAU_STEP, RADAU_STRIDE = 7.0, 1.5
# Stages below which an accuracy-limited stabilised method may be beaten by an explicit one.
FEW_STAGES = 5.0
# A trial of Radau costs Jacobians: they must be small change beside what was spent, and after a
# failure so many times the trial's units go by before the next.
LARGEST_SHARE, ABSTINENCE = 0.25, 10.0


@dataclass
class Auto:
    """Judges the method that runs by Δt per gradient unit, and says which is next.

    Parameters
    ----------
    size
        n.
    rtol
        Of the run.
    dense
        Whether n × n linear algebra is allowed.

    Attributes
    ----------
    current
        Which of the three kinds runs.
    """

    size: int
    rtol: float
    dense: bool
    current: str = ""
    rates: dict[str, float] = field(default_factory=dict)
    patience: dict[str, float] = field(default_factory=dict)
    total: float = 0.0
    units: float = 0.0  # since the last judgement
    gone: float = 0.0  # Δt since then
    steps: int = 0
    settled: bool = False  # nothing else is tried
    on_trial_from: str = ""  # what ran before, while a trial lasts
    tried: dict[str, float] = field(default_factory=dict)  # at which total

    def begin(self, kind: str) -> None:
        """Run this kind from now on."""
        self.current, self.units, self.gone, self.steps = kind, 0.0, 0.0, 0

    def first(self, radius: float, t: float, linear: bool) -> tuple[str, str]:
        """Return the method to begin with, and the reason."""
        stiff = radius * t
        # N ≈ 60 steps of a stabilised method cost √(ρTN) in all; Radau 2n once, and 8 a step.
        if linear and self.dense and 2 * self.size + 200 < (60.0 * stiff) ** 0.5:
            self.settled = True
            return IMPLICIT, (
                f"the flow looks linear, so that one Jacobian of {self.size} products serves all "
                f"steps; λ_max·t = {stiff:.3g}"
            )
        if self.rtol < TIGHT:
            return EXPLICIT, f"rtol = {self.rtol:g} is tight; the first transient is short"
        return STABILISED, f"λ_max·t = {stiff:.3g} at the start"

    def update(self, units: float, dt: float) -> tuple[str, str] | None:
        """After a step: what to switch to, and why; None to go on."""
        self.total += units
        self.units += units
        self.gone += dt
        self.steps += 1
        if self.settled or self.units < TRIAL or self.steps < 2:  # noqa: PLR2004
            return None
        rate, per_step, cost = self.gone / self.units, self.units / self.steps, self.units
        self.rates[self.current] = rate
        self.units = self.gone = 0.0
        self.steps = 0
        if (before := self.on_trial_from) and self.rates[before] * BETTER > rate:
            if self.rates[before] <= rate:
                self.on_trial_from = ""
                return None
            self.on_trial_from = ""
            longer = 2.0 * self.patience.get(self.current, TRIAL)
            if self.current == IMPLICIT:
                longer = max(longer, ABSTINENCE * cost)
            self.patience[self.current] = longer
            self.tried[self.current] = self.total
            return before, (
                f"{self.rates[before]:.3g} of time a gradient against {rate:.3g} in the trial"
            )
        self.on_trial_from = ""
        return self._trial(per_step)

    def _trial(self, per_step: float) -> tuple[str, str] | None:
        if self.current == STABILISED:
            worth = per_step > (RADAU_STEP + 2 * self.size) / RADAU_STRIDE
            affordable = 2 * self.size < LARGEST_SHARE * self.total
            if self.dense and worth and affordable and self._patient(IMPLICIT):
                return self._try(
                    IMPLICIT, f"{per_step:.0f} stages a step, a Jacobian costs {2 * self.size}"
                )
            if self.rtol < TIGHT and per_step < FEW_STAGES and self._patient(EXPLICIT):
                return self._try(EXPLICIT, f"{per_step:.1f} stages a step: accuracy limits it")
        elif self._patient(STABILISED):
            return self._try(STABILISED, "stability may limit the step")
        return None

    def _patient(self, kind: str) -> bool:
        waited = self.total - self.tried.get(kind, 0.0)
        return waited >= self.patience.get(kind, TRIAL)

    def _try(self, kind: str, reason: str) -> tuple[str, str]:
        self.on_trial_from = self.current
        self.tried[kind] = self.total
        return kind, f"a trial: {reason}"

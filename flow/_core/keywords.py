"""Arguments that a function has not: which of its own are meant."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from itertools import chain
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# What flow calls what is called otherwise elsewhere, without "_" and capitals, and what else is to
# say. The first line that has the word, and whose names the function has, says what is meant.
MEANT = (
    ("t", "tmax tend tfinal tf tstop tspan t1 time endtime duration horizon until span"),
    ("rtol atol", "tol tolerance tolerances"),
    ("tol", "tolerance rtol atol"),
    ("rtol", "reltol relativetolerance"),
    ("atol", "abstol absolutetolerance"),
    ("learning_rate", "lr eta η stepsize dt rate alpha learningrates lrs"),
    ("learning_rates", "lr lrs eta η stepsize dt rate rates learningrate"),
    ("step", "lr eta η learningrate", " with method='Euler'; for descent there is flow.descend"),
    ("step", "dt dt0 h stepsize maxstep firststep deltat"),
    ("steps", "nsteps numsteps epochs nepochs numepochs maxepochs iterations iters niter"),
    ("steps", "numiterations maxiter maxiterations maxsteps"),
    ("steps", "t tmax tend tfinal", ": t is learning_rate × steps"),
    ("t", "steps nsteps numsteps epochs nepochs numepochs maxepochs", ": learning rate × steps"),
    ("max_steps", "maxiter maxiterations iterations iters niter"),
    ("max_gradients", "maxevals maxfev maxevaluations budget"),
    ("max_seconds", "timeout timelimit maxtime walltime"),
    ("save", "nsaves saves saveat savetimes teval ts times npoints numpoints nsave saveevery"),
    ("method", "solver integrator algorithm alg scheme"),
    ("observe", "callback callbacks hook hooks metrics observer observers observables record log"),
    ("stop", "stopping termination terminate earlystopping event events until"),
    ("batch_size", "batch bs minibatch minibatchsize"),
    ("progress", "verbose verbosity progressbar pbar bar showprogress display disp quiet"),
    ("optimizer", "opt optim optimiser tx"),
    ("optimizers", "optimizer opt optim optimiser optimisers"),
    ("ensemble", "inits initialisations initializations members thetas starts"),
    ("paths", "npaths numpaths samples nsamples"),
    ("seed", "key rng randomstate prngkey randomseed seeds"),
    ("engine", "backend"),
    ("spacing", "logspacing scale"),
    ("checkpoint", "checkpointdir checkpointfolder checkpointpath ckpt ckptdir"),
    ("label", "name title"),
    ("params", "theta theta0 x0 y0 p0 init parameters initparams initialparams weights params0"),
    ("loss", "fun func f fn lossfn lossfunction objective cost costfn"),
    ("data", "batch dataset args inputs x y xy"),
    ("gradient", "grad gradfn gradientfn jac jacobian"),
    ("objective", "loss lossfn problem model"),
    ("dynamics", "objective loss problem model flow"),
    ("function", "fun func f fn objective"),
    ("grid", "params parameters paramgrid space values"),
    ("jobs", "njobs workers nworkers numworkers processes nprocesses"),
    ("sizes", "layers widths layersizes hidden hiddensizes units"),
    ("activation", "act nonlinearity activationfn phi sigma"),
    ("friction", "momentum beta", ": γ = (1 − β)/√η"),
    ("friction", "gamma damping"),
    ("b1", "beta1"),
    ("b2", "beta2"),
    ("eps", "epsilon"),
    ("weight_decay", "decay wd l2"),
    ("ascent", "maximize maximise climb"),
    ("dtype", "precision"),
    ("file", "path filename fname filepath out output"),
    ("path", "file filename fname filepath out output run trajectory"),
    ("folder", "path dir directory outdir out file"),
    ("ax", "axes axis figure fig"),
    ("figure", "fig ax axes"),
)


def own_keywords(function: F, more: Iterable[str] = ()) -> F:
    """Say of an argument that a function, or a class, has not which of its own is meant.

    Its signature, name and docstring stay. Where several are taken one by one, ``*runs``, they may
    stand in a list too. Of one that hands keywords on, ``**more``, these are
    `more`.

    >>> @own_keywords
    ... def integrate(dynamics, t, *, rtol=1e-6, atol=1e-9): ...
    >>> integrate("a flow", 1.0, tol=1e-3)
    Traceback (most recent call last):
    TypeError: integrate has no argument tol=; it takes rtol= and atol=
    """
    if isinstance(function, type):
        function.__init__ = _checked(function.__init__, function.__name__, more)
        return function
    return _checked(function, function.__qualname__, more)


def _checked(function: Any, name: str, more: Iterable[str]) -> Any:
    parameters = dict(signature(function).parameters)
    own = parameters.pop("self", None) is not None
    several = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters.values())
    places = [k for k, p in parameters.items() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    others = [k for k, p in parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
    names = [k for k, p in parameters.items() if p.kind is not Parameter.VAR_KEYWORD] + [*more]

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if several:
            each = (a if isinstance(a, list | tuple) else [a] for a in arguments)
            arguments = tuple(chain.from_iterable(each))
        if strange := named.keys() - names:
            raise TypeError(unknown(name, min(strange), names))
        if others and not several and len(arguments) - own > len(places):
            raise TypeError(
                f"{name} takes {', '.join(places)} in this order, and the others by their names, "
                f"{', '.join(f'{k}=' for k in others)}; got {arguments[own + len(places)]!r:.80}"
            )
        return function(*arguments, **named)

    return call


def unknown(function: str, word: str, names: Iterable[str]) -> str:
    """Say which of the names of its arguments is meant by a word that a function has not.

    >>> unknown("descend", "n_steps", ["learning_rate", "steps"])
    'descend has no argument n_steps=; it takes steps='
    >>> unknown("descend", "stesp", ["learning_rate", "steps"])
    'descend has no argument stesp=; did you mean steps=?'
    """
    none = f"{function} has no argument {word}="
    plain = {_plain(name): name for name in names}
    mine = _plain(word)
    if mine in plain:
        return f"{none}; it takes {plain[mine]}="
    for meant, others, *more in MEANT:
        if mine in others.split() and {*meant.split()} <= {*plain.values()}:
            return f"{none}; it takes {' and '.join(f'{k}=' for k in meant.split())}{''.join(more)}"
    if near := get_close_matches(mine, plain, 1):
        return f"{none}; did you mean {plain[near[0]]}=?"
    return f"{none}; it takes {', '.join(f'{k}=' for k in plain.values())}"


def _plain(word: str) -> str:
    return word.replace("_", "").lower()

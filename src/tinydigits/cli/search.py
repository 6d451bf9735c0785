r"""Find a network that meets a budget, and prove it.

Only networks that meet every limit that can be checked before training are
built. They are trained for a few epochs, the promising ones further, and
compared on the validation digits. The smallest that exceeds the required
accuracy by a margin is chosen; if there is none, the most accurate. It is then
proved as `prove` does.

Rerun the same command after an interruption to resume, or run it several times
at once to share one search. Exit code 1 unless the budget is met. Requires the
extra: pip install "tinydigits[search]"

Example:
  tinydigits search --budget era-s7 --minutes 30
  tinydigits search --budget sensor.toml --data folder:my-digits --trials 40
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import add_budget, add_data, add_engine, add_json, choose_engine
from tinydigits.cli.output import live_table, print_plain, print_result, print_warning, resumable, stderr_console
from tinydigits.records import Epoch, SearchResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tinydigits.studies.prove import Study, Watch
    from tinydigits.studies.search.halving import Trial
    from tinydigits.studies.search.race import Search
    from tinydigits.studies.search.search import TrialEvents


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_budget(parser, required=True)
    words = "time for trials, without the proof (default: 30)"
    parser.add_argument("--minutes", metavar="X", type=float, default=30.0, help=words)
    parser.add_argument("--trials", metavar="N", type=int, help="at most N networks (default: as many as time allows)")
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="seeds 0 to N-1 for the proof (default: 5)")
    add_data(parser)
    add_engine(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: studies/search-BUDGET")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.inspection.budget import load_budget
    from tinydigits.reports.plots import front_picture
    from tinydigits.studies.search.plan import Limits, plan_search
    from tinydigits.studies.search.search import run_search

    limits = Limits(arguments.minutes, arguments.trials)
    engine = choose_engine(arguments)
    budget, options = load_budget(arguments.budget), {"data_dir": arguments.data_dir, "out": arguments.out}
    plan = plan_search(budget, limits, data=arguments.data or "auto", engine=engine, **options)
    print_warning(plan.data.warning)
    watch = _Watch(stderr_console(quiet=arguments.quiet), arguments.seeds)
    with resumable(plan.directory):
        result = run_search(plan, arguments.seeds, engine=engine, watch=watch)
    front_picture(result, plan.directory / "front.png")
    print_result(result, arguments.json, _print)
    return 0 if result.verdict and result.verdict.verdict == "met" else 1


class _Watch:
    """Shows how far a search is: a live table on a terminal; elsewhere a line for each network trained to the end."""

    def __init__(self, console: "Console", seeds: int) -> None:
        self.console, self.seeds = console, seeds

    def trials(self, search: "Search", events: "TrialEvents") -> "TrialEvents":
        """Show the trials."""
        from tinydigits.reports.tables import duration, percent
        from tinydigits.studies.engines.jobs import JobDone, JobEpoch, JobPaused
        from tinydigits.studies.search.front import sketch

        plan = search.plan
        networks = f"{plan.budget.name}: networks of at most {plan.trial_budget.max_macs:,} MACs"
        training = f"{plan.epochs} epochs of {plan.config.recipe.name} with the {plan.config.backend} backend"
        steps = f"on {plan.data.name}, compared at epochs {', '.join(map(str, search.steps))}"
        left = f"{duration(search.seconds_left)} left, in {plan.directory}"
        print_plain(self.console, f"{networks}, {training} {steps}; {left}")
        rows: dict[int, tuple[Trial, Epoch]] = {}
        with live_table(self.console, _table(search, rows)) as live:
            for trial, event in events:
                if isinstance(event, JobEpoch):
                    rows[trial.number] = trial, event.epoch
                elif isinstance(event, JobPaused | JobDone):
                    rows.pop(trial.number, None)
                if isinstance(event, JobDone):
                    name = f"trial {trial.number}" + (f", seed {trial.seed}" if trial.seed else "")
                    figures = f"{percent(event.result.accuracy)} validation, {trial.parameters:,} parameters"
                    print_plain(live.console, f"{name}: {figures}: {sketch(trial.design)}")
                live.update(_table(search, rows))
                yield trial, event

    def proof(self, result: SearchResult, study: "Study", seconds: float) -> "Watch":
        """Say what was chosen, and show the proof."""
        from tinydigits.cli.prove import StudyWatch
        from tinydigits.reports.tables import duration

        chosen = result.chosen
        print_plain(self.console, f"Chosen: {chosen.network} ({chosen.parameters:,} parameters), {chosen.why}.")
        runs = f"{self.seeds} seed{'s' * (self.seeds != 1)}, {result.epochs} epochs each"
        print_plain(self.console, f"Its proof: {runs}, about {duration(seconds)} in all.")
        return StudyWatch(study, self.seeds, self.console)


def _table(search: "Search", rows: "dict[int, tuple[Trial, Epoch]]") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from tinydigits.reports.tables import duration, percent
    from tinydigits.studies.search.front import sketch

    trials = search.journal.trials()
    ended = sum(trial.epochs == search.plan.epochs for trial in trials)
    title = f"{len(trials)} trials, {ended} to the last epoch, {duration(search.seconds_left)} left"
    table = Table(
        "trial", "epoch", "validation", "params", box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left"
    )
    table.add_column("network", no_wrap=True)
    for number, (trial, epoch) in sorted(rows.items()):
        cells = [str(number), f"{epoch.epoch}/{trial.until}", percent(epoch.accuracy), f"{trial.parameters:,}"]
        table.add_row(*cells, Text(sketch(trial.design)))
    return table


def _print(result: SearchResult, screen: "Console") -> None:
    from tinydigits.cli.prove import print_proof
    from tinydigits.reports.tables import front_table
    from tinydigits.studies.study import read_study

    chosen, trials = result.chosen, result.trials
    screen.print(front_table(result.front, chosen.trial))
    tried = f"{trials.begun} networks tried, {trials.complete} to the last epoch"
    costed = f"{result.candidates.costed:,} candidates costed; {result.over_budget_built} built over the budget"
    busy = "" if result.busy_fraction is None else f"; workers {100 * result.busy_fraction:.0f} % busy"
    print_plain(screen, f"{tried}; {costed}{busy}")
    print_plain(screen, f"Chosen: {chosen.network}, {chosen.why}.")
    if result.verdict:
        print_proof(read_study(Path(result.verdict.study_dir)), result.verdict, screen)
    names = ", ".join(f"{result.search_dir}/{name}" for name in ("net.toml", "front.png", "front.json"))
    print_plain(screen, f"Network, picture and figures: {names}")

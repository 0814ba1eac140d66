"""The policy in force: read from its file, replaced as a whole by an admin, never half."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from holdfast_common.errors import ConfigError
from holdfast_common.files import replace_file
from holdfast_common.policy import Policy, parse_policy
from holdfast_common.settings import read_text

from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans, Shape
from holdfast_controller.planning import Bounds, bounded, plans_of
from holdfast_controller.providers.base import Offer, Quote, newer


class PolicyStore:
    """The file and what it means. The file is the truth: an admin's edit on disk counts from the next start, `set` at once."""

    def __init__(self, path: Path, providers: frozenset[str] | None = None, bounds: Mapping[str, Bounds] | None = None) -> None:
        """Read the file; pools of other `providers` than these are refused. Raises ConfigError with every fault."""
        self._path = path
        self._providers = providers
        self.text = read_text(path)
        self.policy = self._parsed(self.text)
        self._bounds = bounds or {}
        self._plans = bounded(plans_of(self.policy), self._bounds)

    @property
    def revision(self) -> str:
        """Short hash of the policy in force."""
        return self.policy.revision

    def plans(self) -> Plans:
        """Return what the policy means, with the newest prices."""
        return self._plans

    def priced(self, quotes: Mapping[str, Quote]) -> None:
        """Take in newer quotes; what one leaves open stands as it was."""
        known = self._plans.quotes
        self._plans = replace(self._plans, quotes={**known, **{name: newer(known.get(name), quote) for name, quote in quotes.items()}})

    def wants_offers(self) -> bool:
        """Whether a node group has a shape to hold instance types against."""
        return any(plan.shape != Shape() for plan in self._plans.by_node.values())

    def wants_scores(self) -> bool:
        """Whether a partition chooses by the clouds' word on capacity."""
        return any(plan.order == "scored" for plan in self._plans.by_node.values())

    def sold(self, offers: Iterable[Offer]) -> None:
        """Take in what clouds say of their instance types."""
        known = {(offer.provider, offer.instance_type): offer for offer in offers}
        self._plans = replace(self._plans, offers={**self._plans.offers, **known})

    def manage(self, fleet: Fleet) -> None:
        """Have the fleet know the policy's nodes."""
        fleet.manage(frozenset(self._plans.by_node))

    def check(self, text: str) -> str:
        """Return the revision that the text would have. Raises ConfigError with every fault."""
        return self._parsed(text).revision

    def _parsed(self, text: str) -> Policy:
        policy = parse_policy(text, str(self._path))
        unknown = [
            f"pools.{name}.provider: the controller's settings have no [providers.{pool.provider}]"
            for name, pool in policy.pools.items()
            if self._providers is not None and pool.provider not in self._providers
        ]
        if unknown:
            raise ConfigError(str(self._path), unknown)
        return policy

    def set(self, text: str, fleet: Fleet) -> None:
        """Put a new policy in force, durably. Raises ConfigError with every fault, and then nothing has changed."""
        policy = self._parsed(text)
        plans = bounded(plans_of(policy), self._bounds)
        replace_file(self._path, text.encode(), 0o600, durable=True)
        # A node that the policy drops keeps its plan while an instance holds it: its job is still to be brought to safety.
        held = {name: self._plans.by_node[name] for name, node in fleet.nodes.items() if node.instance_id and name in self._plans.by_node}
        self.text, self.policy = text, policy
        self._plans = replace(plans, by_node={**held, **plans.by_node}, quotes=self._plans.quotes, offers=self._plans.offers)
        fleet.manage(frozenset(plans.by_node))

"""Pools in people's words: what each costs, has lately done, whether it would be asked now. Pure, but for the messages it fills."""

from collections.abc import Iterator

from holdfast_protos.v1 import admin_pb2

from holdfast_controller import capacity
from holdfast_controller.decide.placement import Want, why_not
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.policies import PolicyStore
from holdfast_controller.providers.base import Market, Offer, Pool


def pool_infos(fleet: Fleet, policies: PolicyStore, now: float) -> Iterator[admin_pb2.PoolInfo]:
    """Yield one for each pool of the policy, in its order."""
    plans, policy = policies.plans(), policies.policy
    used = {id(plan): plan for plan in plans.by_node.values()}.values()  # thousands of nodes share a few
    for short, said in policy.pools.items():
        users = {plan.partition: plan for plan in used if any(pool.name == said.name for pool in plan.pools)}
        info = admin_pb2.PoolInfo(name=short, full_name=said.name, market=said.market, partitions=sorted(users), quota=-1)
        pool = plans.pool(said.name)
        if pool is None:
            info.state = "no partition uses it"
        else:
            _fill(info, fleet, plans, pool, list(users.values()), now)
        info.instances = fleet.living[said.name]
        yield info


def _fill(info: admin_pb2.PoolInfo, fleet: Fleet, plans: Plans, pool: Pool, users: list[Plan], now: float) -> None:
    quote, memory, offer = plans.quotes.get(pool.name), fleet.pools.get(pool.name), plans.offer(pool)
    for name in ("price_usd_h", "on_demand_usd_h", "score", "preemptions_per_h"):
        known = getattr(quote, name, None)
        if known is not None:
            setattr(info, name, known)
    if pool.market is Market.SPOT:
        info.hazard_per_h = capacity.hazard_per_h(memory, quote, now, 1, fleet.living[pool.name])
    if memory is not None:
        info.doubt, info.granted, info.refusals = capacity.doubt(memory, now, 1), memory.granted, memory.refusals
        info.refused_at = memory.refused_at
        info.last_fault = f"{memory.last_kind}: {memory.last_code}" if memory.last_kind is not None else ""
    quota = fleet.quotas.get(capacity.quota_key(pool.name))
    if quota is not None and now < quota.until:
        info.quota = quota.limit
    if offer is not None:
        info.gpus, info.gpu_model = offer.gpus, offer.gpu_model
    whys = [why_not(fleet, plans, plan, pool, Want(1, now, now), now) for plan in users]
    info.state = "ready" if not all(whys) else whys[0]


def offer_of(fleet: Fleet, plans: Plans, instance_id: str) -> Offer | None:
    """Return what its cloud says of an instance's type; None: not known."""
    record = fleet.instances.get(instance_id)
    provider, _, _, instance_type, _ = ((record.instance.pool if record is not None else "").split("/") + [""] * 5)[:5]
    return plans.offers.get((provider, instance_type))


def offer_info(offer: Offer) -> admin_pb2.OfferInfo:
    """Return an offer as it goes over the wire."""
    return admin_pb2.OfferInfo(
        provider=offer.provider,
        region=offer.region,
        instance_type=offer.instance_type,
        zones=offer.zones,
        gpu_model=offer.gpu_model,
        gpus=offer.gpus,
        gpu_memory_mb=offer.gpu_memory_mb,
        cpus=offer.cpus,
        memory_mb=offer.memory_mb,
        markets=[market.value for market in offer.markets],
    )

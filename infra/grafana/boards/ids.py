"""Names of boards and panels that other things link to: alert rules, runbooks, the preview, people's bookmarks.

A board's uid and a panel's id never change and are never given out again. This file imports nothing, so that alert
rules and commands can use it without the SDK that makes the boards.
"""

from __future__ import annotations


class Fleet:
    """Is the fleet all right now, and if not: where?"""

    UID = "gpufleet-fleet"
    IN_SERVICE = 1
    HEALTHY = 2
    SICK = 3
    SILENT = 4
    POWER_NOW = 5
    COMPLETENESS = 6
    FRESHNESS = 7
    BY_HEALTH = 8
    SICK_BY_CAUSE = 9
    POWER = 10
    BY_MODEL_AND_TENANT = 11
    LIFECYCLE = 12
    UTILISATION = 13
    RACK_HEATMAP = 14
    WORST_RACKS = 15
    THROTTLED = 16
    COMPLETENESS_OVER_TIME = 17


class Rack:
    """One rack: its nodes, its NVLink domain and switch trays, its power and coolant."""

    UID = "gpufleet-rack"
    REPORTING = 1
    HEALTHY = 2
    SICK = 3
    POWER_NOW = 4
    HOTTEST = 5
    COOLANT = 6
    COMPLETENESS = 7
    NODE_HEALTH = 8
    NODES = 9
    POWER_BY_NODE = 10
    TEMPERATURE_BY_NODE = 11
    UTILISATION_BY_NODE = 12
    NVLINK_DOMAIN = 13
    NVLINK_TRAFFIC = 14
    PDU = 15
    CDU = 16
    SICK_GPUS = 17
    EVENTS = 18


class Node:
    """One node and its GPUs."""

    UID = "gpufleet-node"
    REPORTING = 1
    HEALTHY = 2
    SICK = 3
    POWER_NOW = 4
    HOTTEST = 5
    CLOCK_OFFSET = 6
    COMPLETENESS = 7
    GPU_HEALTH = 8
    PLACE = 9
    GPUS = 10
    POWER = 11
    UTILISATION = 12
    TEMPERATURE = 13
    SM_CLOCK = 14
    THROTTLING = 15
    HOST = 16
    NETWORK = 17
    JOBS = 18
    EVENTS = 19


class Gpu:
    """One GPU: what it does, what happened to it, how its job's other GPUs do."""

    UID = "gpufleet-gpu"
    HEALTH = 1
    POWER_NOW = 2
    TEMPERATURE_NOW = 3
    ACTIVE_NOW = 4
    AGAINST_PEERS = 5
    ECC_NOW = 6
    COMPLETENESS = 7
    ACTIVITY = 8
    POWER = 9
    TEMPERATURE = 10
    CLOCKS = 11
    THROTTLING = 12
    MEMORY = 13
    LINKS = 14
    COUNTERS = 15
    PEERS = 16
    IDENTITY = 17
    EVENTS = 18
    LAST_MINUTES = 19
    MINUTE_BY_MINUTE = 20


class Health:
    """What is broken, whose it is, and what to do about it."""

    UID = "gpufleet-health"
    OPEN_FAULTS = 1
    XIDS = 2
    SLOWED = 3
    SILENT_NODES = 4
    HUNG_JOBS = 5
    STRAGGLERS = 6
    COMPLETENESS = 7
    SICK_OVER_TIME = 8
    XIDS_BY_ACTION = 9
    XIDS_BY_OWNER = 10
    SICK_GPUS = 11
    ECC_AND_REMAPS = 12
    LINKS = 13
    THROTTLING = 14
    JOBS = 15
    SILENT = 16
    VERSION_SKEW = 17
    GPU_SWAPS = 18
    XID_LIST = 19
    CLOCKS = 20


class Power:
    """Feed -> PDU -> rack, and the coolant that carries it away."""

    UID = "gpufleet-power"
    SITE_POWER = 1
    SITE_HEADROOM = 2
    FEEDS_DOWN = 3
    LEAKS = 4
    HOTTEST_SUPPLY = 5
    COMPLETENESS = 6
    SITE = 7
    FEEDS = 8
    FEED_LOAD = 9
    PDUS = 10
    RACKS = 11
    CDUS = 12
    COOLANT_TEMPERATURE = 13
    COOLANT_FLOW = 14
    POWER_BY_MODEL = 15
    FACILITY_EVENTS = 16
    ENERGY = 17


class Capacity:
    """Who holds what, what is free, what the leases got."""

    UID = "gpufleet-capacity"
    LEASED = 1
    FREE = 2
    DELIVERED_SHARE = 3
    BELOW_TARGET = 4
    USED_SHARE = 5
    COMPLETENESS = 6
    BY_TENANT = 7
    BY_MODEL = 8
    LEASES = 9
    DELIVERY = 10
    HAND_OVERS = 11
    OVERLAPS = 12
    FREE_BY_MODEL = 13
    NOT_IN_SERVICE = 14


class Pipeline:
    """Is what the other boards show true, complete and fresh?"""

    UID = "gpufleet-pipeline"
    FRESHNESS_NOW = 1
    EVENTS_NOW = 2
    DEAD_LETTERS_NOW = 3
    FLAWS_NOW = 4
    GAPS = 5
    COMPLETENESS = 6
    PROJECTOR_BEHIND = 7
    EVENTS = 8
    FRESHNESS = 9
    INSERT_TIME = 10
    INSERTS = 11
    FILTERED = 12
    LATE = 13
    PARTS = 14
    STORAGE = 15
    TOPICS = 16
    DEAD_LETTERS = 17
    FLAWS = 18
    AUDITS = 19
    SPOOLS = 20


class Delivered:
    """Customer: what did I lease, and what did I get?"""

    UID = "gpufleet-delivered"
    LEASED = 1
    HEALTHY = 2
    DELIVERED_SHARE = 3
    UNKNOWN = 4
    USED_SHARE = 5
    COMPLETENESS = 6
    CAPACITY = 7
    BY_CLASS = 8
    BY_MODEL = 9
    LEASES = 10
    SHARE_OVER_TIME = 11
    LOST_HOURS = 12
    UTILISATION = 13
    BY_DAY = 14


class Usage:
    """Customer: how close am I to my caps and limits?"""

    UID = "gpufleet-usage"
    NEAREST_CAP = 1
    TIME_TO_CAP = 2
    THROTTLED_SHARE = 3
    REQUESTS_NOW = 4
    TOKENS_NOW = 5
    COMPLETENESS = 6
    HEADROOM = 7
    HEADROOM_BARS = 8
    REQUESTS = 9
    TOKENS = 10
    THROTTLED = 11
    CAP_OVER_TIME = 12
    BY_PRODUCT = 13
    LIMIT_CHANGES = 14
    BY_DAY = 15


class Throughput:
    """Customer: what do my users get from the API?"""

    UID = "gpufleet-throughput"
    REQUESTS_NOW = 1
    OUTPUT_NOW = 2
    FAILED_SHARE = 3
    THROTTLED_SHARE = 4
    TTFT_NOW = 5
    COMPLETENESS = 6
    TTFT = 7
    LATENCY = 8
    TTFT_HEATMAP = 9
    REQUESTS_BY = 10
    TOKENS_BY = 11
    BREAKDOWN = 12
    CACHED_SHARE = 13
    ERRORS = 14


class Effect:
    """Customer: what did new capacity and raised limits do?"""

    UID = "gpufleet-effect"
    ACCEPTED = 1
    TOKENS_PER_GPU_HOUR = 2
    THROTTLED_SHARE = 3
    LAST_CHANGE = 4
    COMPLETENESS = 5
    ACCEPTED_OVER_TIME = 6
    TOKENS_PER_GPU_HOUR_OVER_TIME = 7
    THROTTLED_OVER_TIME = 8
    TOKENS = 9
    HAND_OVERS = 10
    LIMIT_RAISES = 11
    USED = 12


class Energy:
    """Customer: what energy did my GPUs take, and for what?"""

    UID = "gpufleet-energy"
    ENERGY = 1
    POWER_NOW = 2
    PER_GPU_HOUR = 3
    PER_TOKEN = 4
    COMPLETENESS = 5
    POWER = 6
    ENERGY_OVER_TIME = 7
    BY_MODEL = 8
    BY_LEASE = 9
    BY_DAY = 10
    POWER_PER_GPU = 11
    HELD_BACK = 12


class Incidents:
    """Customer: what happened to my GPUs, with the evidence."""

    UID = "gpufleet-incidents"
    SICK_NOW = 1
    LOST_NOW = 2
    UNKNOWN_NOW = 3
    XIDS = 4
    WORST = 5
    COMPLETENESS = 6
    SICK_OVER_TIME = 7
    LOST_BY_CAUSE = 8
    INCIDENTS = 9
    EVIDENCE = 10
    MAINTENANCE = 11
    JOBS = 12
    BY_NODE = 13
    SLOWED = 14


OPERATOR = (Fleet, Rack, Node, Gpu, Health, Power, Capacity, Pipeline)
"""Boards of the operator's organisation."""
CUSTOMER = (Delivered, Usage, Throughput, Effect, Energy, Incidents)
"""Boards of each customer's organisation."""

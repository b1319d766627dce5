-- The tables of DESIGN.md, in the order and with the columns that it names. Times are UTC.
-- No index on the large tables: rows arrive in sequence order, so DuckDB's row-group statistics find a range of them.

CREATE TABLE IF NOT EXISTS cas_tasks (
    task_id VARCHAR PRIMARY KEY,
    agent_id VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    attempt INTEGER,
    progress DOUBLE,
    message VARCHAR,
    input JSON,
    output JSON,
    error JSON,
    metadata JSON,
    parent_id VARCHAR,
    correlation_id VARCHAR,
    created_at TIMESTAMP NOT NULL,
    started_at TIMESTAMP,
    finished_at TIMESTAMP,
    cancel_reason VARCHAR,
    last_seq BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS cas_agent_logs (
    seq BIGINT NOT NULL,
    task_id VARCHAR,
    agent_id VARCHAR,
    attempt INTEGER,
    level VARCHAR,
    message VARCHAR,
    metadata JSON,
    time TIMESTAMP NOT NULL
);

CREATE TABLE IF NOT EXISTS cas_agent_events (
    seq BIGINT NOT NULL,
    id VARCHAR NOT NULL,
    type VARCHAR NOT NULL,
    task_id VARCHAR,
    agent_id VARCHAR,
    attempt INTEGER,
    "index" BIGINT,
    time TIMESTAMP NOT NULL,
    data JSON NOT NULL
);

CREATE TABLE IF NOT EXISTS cas_commands (
    seq BIGINT NOT NULL,
    kind VARCHAR NOT NULL,
    agent_id VARCHAR,
    task_id VARCHAR NOT NULL,
    time TIMESTAMP NOT NULL,
    data JSON
);

CREATE TABLE IF NOT EXISTS cas_agents (
    agent_id VARCHAR PRIMARY KEY,
    status VARCHAR,
    version VARCHAR,
    schema JSON,
    registered_at TIMESTAMP,
    breaker VARCHAR NOT NULL,
    paused BOOLEAN NOT NULL,
    last_seq BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS cas_agent_state (
    agent_id VARCHAR NOT NULL,
    key VARCHAR NOT NULL,
    revision BIGINT NOT NULL,
    state JSON,
    time TIMESTAMP NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (agent_id, key)
);

CREATE TABLE IF NOT EXISTS cas_dead_letters (
    seq BIGINT NOT NULL,
    stream VARCHAR NOT NULL,
    subject VARCHAR NOT NULL,
    task_id VARCHAR,
    agent_id VARCHAR,
    reason VARCHAR NOT NULL,
    detail VARCHAR,
    raw BLOB,
    time TIMESTAMP NOT NULL
);

CREATE TABLE IF NOT EXISTS cas_projection (
    stream VARCHAR PRIMARY KEY,
    last_seq BIGINT NOT NULL,
    version INTEGER NOT NULL
);

-- What the fold has to remember of a task beyond its row in cas_tasks: where in (attempt, index) each shown value
-- comes from, and up to where its events are stored. A place is attempt * 2^40 + index.
CREATE TABLE IF NOT EXISTS cas_task_fold_internal (
    task_id VARCHAR PRIMARY KEY,
    agent_id VARCHAR NOT NULL,      -- owner: agent of the first execute, until that is known of the first event
    command_seq BIGINT,             -- of the first execute; NULL: the owner is only assumed
    first_seq BIGINT,               -- lowest sequence of an event of the owner
    high BIGINT NOT NULL,           -- highest place stored; -1: none
    prev_high BIGINT,               -- the same before the batch, and lowest place of the batch: prev_high >= low
    low BIGINT,                     --   means that the batch may repeat what is stored
    batch BIGINT NOT NULL,          -- the batch that wrote the row last
    clash BOOLEAN NOT NULL,         -- that batch spoke of another owner
    life_rank BIGINT,               -- place of the newest lifecycle event; of a terminal one: above all places
    attempt INTEGER,
    started_place BIGINT,
    progress_place BIGINT,
    terminal_seq BIGINT
);

-- Events that cannot be judged yet: of an agent that may turn out to own the task, or progress of an attempt whose
-- `started` has not come. Empty but for hostile logs.
CREATE TABLE IF NOT EXISTS cas_pending_event_internal (
    seq BIGINT, type VARCHAR, id VARCHAR, agent_id VARCHAR, task_id VARCHAR, attempt INTEGER, "index" BIGINT,
    place BIGINT, time TIMESTAMP, status VARCHAR, correlation VARCHAR, parent VARCHAR, dataversion INTEGER, data JSON
);

-- What the time machine needs beyond the rows of cas_agent_events: when each event was stored, and, of the few events
-- that are not their own root and of data version 1 without a state key, those three.
CREATE TABLE IF NOT EXISTS cas_event_time_internal (
    seq BIGINT NOT NULL,
    stored_at TIMESTAMP NOT NULL
);

CREATE TABLE IF NOT EXISTS cas_event_more_internal (
    seq BIGINT NOT NULL,
    dataversion INTEGER NOT NULL,
    correlation_id VARCHAR,
    parent_id VARCHAR,
    state_key VARCHAR
);

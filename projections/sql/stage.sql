-- What a batch is staged in, per connection of the writer. `incoming_commands` and `incoming_events` are Arrow.

CREATE TEMP MACRO is_text(j) AS starts_with(j, '"');

-- The text of a JSON string; slicing is three times faster than unescaping, and nearly no string has escapes.
CREATE TEMP MACRO text_of(j) AS
    CASE WHEN NOT starts_with(j, '"') THEN NULL
         WHEN contains(j, '\') THEN json_extract_string(j, '$')
         ELSE substr(j, 2, length(j) - 2) END;

-- RFC 3339 with an offset, as UTC; NULL if it is none. The first branch is how our own encoder writes it.
CREATE TEMP MACRO time_of(t) AS
    CASE WHEN length(t) = 27 AND t[11] = 'T' AND t[27] = 'Z' THEN TRY_CAST(t AS TIMESTAMP)
         WHEN regexp_full_match(t, '\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)')
         THEN TRY_CAST(upper(t) AS TIMESTAMPTZ) AT TIME ZONE 'UTC' END;

-- A whole number from 0 to the limit, written as one.
CREATE TEMP MACRO whole(j, most) AS
    CASE WHEN TRY_CAST(j AS BIGINT)::VARCHAR = j AND TRY_CAST(j AS BIGINT) BETWEEN 0 AND most
         THEN TRY_CAST(j AS BIGINT) END;

-- A finite JSON number.
CREATE TEMP MACRO number_of(j) AS
    CASE WHEN isfinite(TRY_CAST(j::VARCHAR AS DOUBLE)) THEN TRY_CAST(j::VARCHAR AS DOUBLE) END;

CREATE TEMP MACRO stored_time(time_ns) AS make_timestamp(time_ns // 1000);

CREATE TEMP TABLE staged_command (
    seq BIGINT, kind VARCHAR, agent_id VARCHAR, task_id VARCHAR, time TIMESTAMP, data JSON,
    input JSON, metadata JSON, parent_id VARCHAR, correlation_id VARCHAR,
    valid BOOLEAN, first BOOLEAN
);

CREATE TEMP TABLE staged_event (
    seq BIGINT, type VARCHAR, id VARCHAR, agent_id VARCHAR, task_id VARCHAR, attempt INTEGER, "index" BIGINT,
    place BIGINT,           -- attempt and index as one number; NULL without a whole key
    time TIMESTAMP,
    time_ns BIGINT,         -- when the server stored it
    status VARCHAR,         -- of the task after a lifecycle event; NULL for all others
    correlation VARCHAR, parent VARCHAR, dataversion INTEGER, data JSON,
    class VARCHAR, subject VARCHAR, state_key VARCHAR,
    valid BOOLEAN,          -- an envelope that agrees with its subject
    owned BOOLEAN,          -- of the task's owner: counts for the row in cas_task_fold_internal
    relevant BOOLEAN,       -- may change the row in cas_tasks
    stored BOOLEAN          -- in cas_agent_events since an earlier batch
);

CREATE TEMP TABLE batch_task (
    task_id VARCHAR, agent_id VARCHAR, first_seq BIGINT, low BIGINT, high BIGINT,
    life_seq BIGINT, life_rank BIGINT, status VARCHAR, output JSON, error JSON, cancel_reason VARCHAR,
    attempt INTEGER, started_place BIGINT, started_at TIMESTAMP, input JSON,
    first_time TIMESTAMP, correlation_id VARCHAR, parent_id VARCHAR,
    progress_place BIGINT, progress_seq BIGINT, progress DOUBLE, message VARCHAR,
    terminal_seq BIGINT, finished_at TIMESTAMP, last_relevant_seq BIGINT
);

-- The exact way's own: keys that may be stored already, tasks whose owner turned out to be another, owners.
CREATE TEMP TABLE suspect (
    seq BIGINT, agent_id VARCHAR, task_id VARCHAR, attempt INTEGER, "index" BIGINT, floor BIGINT
);
CREATE TEMP TABLE switched (task_id VARCHAR, agent_id VARCHAR);
CREATE TEMP TABLE batch_owner (
    task_id VARCHAR, agent_id VARCHAR, known BOOLEAN, terminal_seq BIGINT, attempt INTEGER
);

-- The tables as they were when the log ended at an event: PROTOCOL section 11, "as of". Macros, so that a copy of the
-- file answers without us. `at_seq` is a sequence of CAS_EVENTS; beyond the end it means the end.
--
-- A command counts when it was stored not after that event. What has not changed since then is taken from the tables
-- as they are; only tasks of which something came later are folded anew from their events, and of these the
-- documents are opened last, for the few events that decide. Names are written with their schema, because a question
-- may have given the plain ones another meaning (`past`).

-- When the server stored an event; of a gap, the event before it.
CREATE OR REPLACE MACRO cas_stored_at(at_seq) AS (
    SELECT time FROM (
        SELECT seq, stored_at AS time FROM main.cas_event_time_internal WHERE seq <= at_seq
        UNION ALL SELECT seq, time FROM main.cas_dead_letters WHERE stream LIKE '%\_EVENTS' ESCAPE '\' AND seq <= at_seq
    ) ORDER BY seq DESC LIMIT 1
);

-- The last event that was stored not after a moment (UTC); 0: none.
CREATE OR REPLACE MACRO cas_seq_at(moment) AS (
    SELECT coalesce(max(seq), 0) FROM (
        SELECT seq FROM main.cas_event_time_internal WHERE stored_at <= moment
        UNION ALL SELECT seq FROM main.cas_dead_letters WHERE stream LIKE '%\_EVENTS' ESCAPE '\' AND time <= moment
    )
);

CREATE OR REPLACE MACRO cas_agent_events_as_of(at_seq) AS TABLE
SELECT * FROM main.cas_agent_events WHERE seq <= at_seq;

CREATE OR REPLACE MACRO cas_agent_logs_as_of(at_seq) AS TABLE
SELECT * FROM main.cas_agent_logs WHERE seq <= at_seq;

CREATE OR REPLACE MACRO cas_commands_as_of(at_seq) AS TABLE
SELECT * FROM main.cas_commands WHERE time <= main.cas_stored_at(at_seq);

CREATE OR REPLACE MACRO cas_dead_letters_as_of(at_seq) AS TABLE
SELECT * FROM main.cas_dead_letters
WHERE CASE WHEN stream LIKE '%\_EVENTS' ESCAPE '\' THEN seq <= at_seq ELSE time <= main.cas_stored_at(at_seq) END;

CREATE OR REPLACE MACRO cas_projection_as_of(at_seq) AS TABLE
SELECT stream,
    CASE WHEN stream LIKE '%\_EVENTS' ESCAPE '\' THEN least(last_seq, at_seq)
         ELSE coalesce((SELECT max(seq) FROM (
            SELECT seq FROM main.cas_commands_as_of(at_seq)
            UNION ALL SELECT seq FROM main.cas_dead_letters_as_of(at_seq) l WHERE l.stream LIKE '%\_COMMANDS' ESCAPE '\'
         )), 0) END AS last_seq,
    version
FROM main.cas_projection;

CREATE OR REPLACE MACRO cas_agents_as_of(at_seq) AS TABLE
SELECT agent_id,
    arg_max(CASE type WHEN 'cas.agent.registered' THEN 'registered'
        WHEN 'cas.agent.deregistered' THEN 'deregistered' END, seq) AS status,
    json_extract_string(arg_max(data, seq) FILTER (type = 'cas.agent.registered'), '$.version') AS version,
    nullif(json_extract(arg_max(data, seq) FILTER (type = 'cas.agent.registered'), '$.schema'), 'null') AS schema,
    arg_max(time, seq) FILTER (type = 'cas.agent.registered') AS registered_at,
    coalesce(arg_max(CASE type WHEN 'cas.agent.breaker_opened' THEN 'open'
        WHEN 'cas.agent.breaker_half_opened' THEN 'half_open'
        WHEN 'cas.agent.breaker_closed' THEN 'closed' END, seq), 'closed') AS breaker,
    coalesce(arg_max(CASE type WHEN 'cas.agent.paused' THEN true WHEN 'cas.agent.unpaused' THEN false END, seq), false)
        AS paused,
    max(seq) AS last_seq
FROM main.cas_agent_events
WHERE seq <= at_seq AND type IN (
    'cas.agent.registered', 'cas.agent.deregistered', 'cas.agent.paused', 'cas.agent.unpaused',
    'cas.agent.breaker_opened', 'cas.agent.breaker_half_opened', 'cas.agent.breaker_closed')
GROUP BY agent_id;

CREATE OR REPLACE MACRO cas_agent_state_as_of(at_seq) AS TABLE
SELECT agent_id, key, revision, nullif(json_extract(data, '$.state'), 'null') AS state, time, seq
FROM (
    SELECT e.agent_id, coalesce(m.state_key, '') AS key, e.data, e.time, e.seq,
        CASE WHEN TRY_CAST(json_extract(e.data, '$.revision')::VARCHAR AS BIGINT)::VARCHAR
                = json_extract(e.data, '$.revision')::VARCHAR
             THEN TRY_CAST(json_extract(e.data, '$.revision')::VARCHAR AS BIGINT) END AS revision
    FROM main.cas_agent_events e LEFT JOIN main.cas_event_more_internal m ON m.seq = e.seq
    WHERE e.seq <= at_seq AND e.type IN ('cas.state.updated', 'cas.state.reset') AND coalesce(m.dataversion, 1) = 1
)
WHERE revision BETWEEN 0 AND 9007199254740991
QUALIFY row_number() OVER (PARTITION BY agent_id, key ORDER BY revision DESC, seq) = 1;

CREATE OR REPLACE MACRO cas_tasks_as_of(at_seq) AS TABLE
WITH executed AS MATERIALIZED (
    -- the first execute of each id that was stored by then
    SELECT task_id, min(seq) AS command_seq, arg_min(agent_id, seq) AS agent_id
    FROM main.cas_commands WHERE kind = 'execute' AND time <= main.cas_stored_at(at_seq) GROUP BY task_id
), same AS MATERIALIZED (
    -- nothing that shows in the row came later
    SELECT t.task_id
    FROM main.cas_tasks t JOIN main.cas_task_fold_internal f USING (task_id) LEFT JOIN executed x USING (task_id)
    WHERE t.last_seq <= at_seq AND x.command_seq IS NOT DISTINCT FROM f.command_seq
), changed AS MATERIALIZED (
    SELECT task_id FROM main.cas_tasks ANTI JOIN same USING (task_id)
), duplicate AS MATERIALIZED (
    -- rejections of a second use of an id, which say nothing about the task that has it
    SELECT seq FROM main.cas_agent_events
    WHERE seq <= at_seq AND type = 'cas.task.rejected' AND json_extract_string(data, '$.reason') = 'duplicate_task'
), owner AS MATERIALIZED (
    SELECT task_id, agent_id, command_seq FROM executed SEMI JOIN changed USING (task_id)
    UNION ALL
    SELECT task_id, arg_min(agent_id, seq), NULL
    FROM main.cas_agent_events SEMI JOIN (FROM changed ANTI JOIN executed USING (task_id)) USING (task_id)
        ANTI JOIN duplicate USING (seq)
    WHERE seq <= at_seq AND attempt IS NOT NULL AND "index" IS NOT NULL
    GROUP BY task_id
), life AS MATERIALIZED (
    SELECT * FROM (
        SELECT e.task_id, e.seq, e.type, e.attempt, e.attempt * 1099511627776 + e."index" AS place,
            e.type IN ('cas.task.completed', 'cas.task.failed', 'cas.task.cancelled', 'cas.task.rejected') AS is_end,
            min(e.seq) FILTER (is_end) OVER (PARTITION BY e.task_id) AS end_seq
        FROM main.cas_agent_events e SEMI JOIN owner o ON o.task_id = e.task_id AND o.agent_id = e.agent_id
            ANTI JOIN duplicate d ON d.seq = e.seq
        WHERE e.seq <= at_seq AND e.attempt IS NOT NULL AND e."index" IS NOT NULL
            AND e.type IN ('cas.task.started', 'cas.task.resumed', 'cas.task.retrying', 'cas.task.interrupted',
                'cas.task.completed', 'cas.task.failed', 'cas.task.cancelled', 'cas.task.rejected')
    ) WHERE end_seq IS NULL OR seq <= end_seq
), lineage AS (
    -- what is not said beside the event is that it is its own root and of the first version
    SELECT l.task_id, l.seq, coalesce(m.dataversion, 1) AS dataversion,
        CASE WHEN m.seq IS NULL THEN l.task_id ELSE m.correlation_id END AS correlation_id, m.parent_id
    FROM life l LEFT JOIN main.cas_event_more_internal m ON m.seq = l.seq
), lived AS MATERIALIZED (
    SELECT l.task_id, max(l.seq) AS life_seq, any_value(l.end_seq) AS end_seq, min(l.seq) AS first_seq,
        coalesce(any_value(l.end_seq), arg_max(l.seq, l.place)) AS newest_seq,
        max(l.attempt) FILTER (l.type = 'cas.task.started') AS attempt,
        arg_min(l.seq, l.place) FILTER (l.type = 'cas.task.started') AS start_seq,
        arg_min(n.correlation_id, l.seq) AS correlation_id, arg_min(n.parent_id, l.seq) AS parent_id
    FROM life l JOIN lineage n ON n.seq = l.seq
    GROUP BY l.task_id
), told AS (
    SELECT e.task_id, e.seq, e."index", isfinite(TRY_CAST(json_extract(e.data, '$.progress')::VARCHAR AS DOUBLE)) AS good
    FROM main.cas_agent_events e
    JOIN lived v ON v.task_id = e.task_id AND v.attempt = e.attempt AND e.seq <= coalesce(v.end_seq, e.seq)
    JOIN owner o ON o.task_id = e.task_id AND o.agent_id = e.agent_id
    WHERE e.seq <= at_seq AND e.type = 'cas.progress'
        AND e.seq NOT IN (SELECT seq FROM main.cas_event_more_internal WHERE dataversion <> 1)
), shown AS MATERIALIZED (
    SELECT task_id, arg_max(seq, "index") AS seq FROM told WHERE good GROUP BY task_id
), document AS MATERIALIZED (
    SELECT e.seq, e.time, e.type, CASE WHEN coalesce(m.dataversion, 1) = 1 THEN e.data END AS data
    FROM main.cas_agent_events e LEFT JOIN main.cas_event_more_internal m ON m.seq = e.seq
    WHERE e.seq <= at_seq AND e.seq IN (
        SELECT unnest([newest_seq, first_seq, start_seq]) FROM lived UNION ALL SELECT seq FROM shown)
)
SELECT t.* FROM main.cas_tasks t SEMI JOIN same USING (task_id)
UNION ALL
SELECT o.task_id, o.agent_id,
    CASE newest.type WHEN 'cas.task.started' THEN 'running' WHEN 'cas.task.resumed' THEN 'running'
        ELSE coalesce(substr(newest.type, 10), 'queued') END,
    v.attempt,
    CASE WHEN s.seq IS NOT NULL THEN TRY_CAST(json_extract(progress.data, '$.progress')::VARCHAR AS DOUBLE) END,
    progress.data->>'$.message',
    nullif(json_extract(CASE WHEN o.command_seq IS NULL THEN start.data ELSE command.data END, '$.input'), 'null'),
    CASE WHEN newest.type = 'cas.task.completed' THEN nullif(json_extract(newest.data, '$.output'), 'null') END,
    CASE WHEN newest.type IN ('cas.task.started', 'cas.task.resumed', 'cas.task.completed') THEN NULL
        WHEN newest.type = 'cas.task.rejected' THEN CASE WHEN newest.data IS NOT NULL THEN
            json_object('type', coalesce(newest.data->>'$.reason', 'rejected'), 'message', newest.data->>'$.detail') END
        ELSE nullif(json_extract(newest.data, '$.error'), 'null') END,
    nullif(json_extract(command.data, '$.metadata'), 'null'),
    coalesce(CASE WHEN json_type(command.data, '$.parent_id') = 'VARCHAR' THEN command.data->>'$.parent_id' END, v.parent_id),
    coalesce(CASE WHEN json_type(command.data, '$.correlation_id') = 'VARCHAR' THEN command.data->>'$.correlation_id' END,
        v.correlation_id),
    coalesce(command.time, first.time), start.time,
    CASE WHEN v.end_seq IS NOT NULL THEN newest.time END,
    CASE WHEN newest.type = 'cas.task.cancelled' THEN newest.data->>'$.reason' END,
    greatest(coalesce(v.life_seq, 0), coalesce(s.seq, 0))
FROM owner o
LEFT JOIN lived v ON v.task_id = o.task_id
LEFT JOIN shown s ON s.task_id = o.task_id
LEFT JOIN main.cas_commands command ON command.seq = o.command_seq
LEFT JOIN document newest ON newest.seq = v.newest_seq
LEFT JOIN document start ON start.seq = v.start_seq
LEFT JOIN document first ON first.seq = v.first_seq
LEFT JOIN document progress ON progress.seq = s.seq
WHERE o.command_seq IS NOT NULL OR v.task_id IS NOT NULL;

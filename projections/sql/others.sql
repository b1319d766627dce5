-- What else is derived from a batch's staged events: agents, their state, dead letters; and the position.

-- name: add_agents
INSERT INTO cas_agents
SELECT DISTINCT agent_id, NULL, NULL, NULL, NULL, 'closed', false, 0 FROM staged_event
WHERE valid AND class = 'agent' AND NOT stored AND type IN (
    'cas.agent.registered', 'cas.agent.deregistered', 'cas.agent.paused', 'cas.agent.unpaused',
    'cas.agent.breaker_opened', 'cas.agent.breaker_half_opened', 'cas.agent.breaker_closed')
ON CONFLICT DO NOTHING;

-- name: update_agents
UPDATE cas_agents AS a SET
    status = coalesce(n.status, a.status),
    version = CASE WHEN n.facts IS NULL THEN a.version ELSE json_extract_string(n.facts.data, '$.version') END,
    schema = CASE WHEN n.facts IS NULL THEN a.schema ELSE nullif(json_extract(n.facts.data, '$.schema'), 'null') END,
    registered_at = CASE WHEN n.facts IS NULL THEN a.registered_at ELSE n.facts.time END,
    breaker = coalesce(n.breaker, a.breaker),
    paused = coalesce(n.paused, a.paused),
    last_seq = n.last_seq
FROM (
    SELECT agent_id, max(seq) AS last_seq,
        arg_max(CASE type WHEN 'cas.agent.registered' THEN 'registered'
                WHEN 'cas.agent.deregistered' THEN 'deregistered' END, seq) AS status,
        arg_max({'data': data, 'time': time}, seq) FILTER (type = 'cas.agent.registered') AS facts,
        arg_max(CASE type WHEN 'cas.agent.breaker_opened' THEN 'open' WHEN 'cas.agent.breaker_half_opened' THEN 'half_open'
                WHEN 'cas.agent.breaker_closed' THEN 'closed' END, seq) AS breaker,
        arg_max(CASE type WHEN 'cas.agent.paused' THEN true WHEN 'cas.agent.unpaused' THEN false END, seq) AS paused
    FROM staged_event
    WHERE valid AND class = 'agent' AND NOT stored AND type IN (
        'cas.agent.registered', 'cas.agent.deregistered', 'cas.agent.paused', 'cas.agent.unpaused',
        'cas.agent.breaker_opened', 'cas.agent.breaker_half_opened', 'cas.agent.breaker_closed')
    GROUP BY agent_id
) n
WHERE a.agent_id = n.agent_id;

-- name: merge_states
-- The highest revision wins, and of the same revision twice the first.
INSERT INTO cas_agent_state
SELECT agent_id, state_key, revision, nullif(json_extract(data, '$.state'), 'null'), time, seq
FROM (
    SELECT *, whole(json_extract(data, '$.revision')::VARCHAR, 9007199254740991) AS revision
    FROM staged_event
    WHERE valid AND class = 'state' AND dataversion = 1 AND NOT stored
        AND type IN ('cas.state.updated', 'cas.state.reset')
)
WHERE revision IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY agent_id, state_key ORDER BY revision DESC, seq) = 1
ON CONFLICT (agent_id, key) DO UPDATE SET
    revision = excluded.revision, state = excluded.state, time = excluded.time, seq = excluded.seq
WHERE excluded.revision > revision;

-- name: store_letters
-- Raw bytes come in base64; of a command that was ignored, the detail is its subject.
INSERT INTO cas_dead_letters
SELECT seq, $1, subject,
    CASE WHEN type = 'cas.agent.command_ignored' THEN string_split(x[4], '.')[5] ELSE task_id END,
    agent_id,
    coalesce(x[1], CASE WHEN type = 'cas.task.rejected' THEN 'rejected' ELSE 'command_ignored' END),
    CASE WHEN type = 'cas.task.rejected' THEN x[2] WHEN type = 'cas.task.failed' THEN x[5]
         ELSE x[4] END,
    CASE WHEN type <> 'cas.task.failed' THEN TRY(from_base64(x[3])) END,
    stored_time(time_ns)
FROM (
    SELECT *, json_extract_string(data, ['$.reason', '$.detail', '$.raw', '$.subject', '$.error.message']) AS x
    FROM staged_event WHERE valid AND NOT stored AND (status IN ('rejected', 'failed') OR type = 'cas.agent.command_ignored')
)
WHERE type <> 'cas.task.failed' OR x[1] = 'attempts_exhausted';

-- name: store_undecodable
INSERT INTO cas_dead_letters VALUES ($1, $2, $3, $4, $5, 'undecodable', $6, $7, make_timestamp($8));

-- name: positions
SELECT stream, last_seq, version FROM cas_projection;

-- name: newest_command
SELECT seq, epoch_us(time) FROM cas_commands ORDER BY seq DESC LIMIT 1;

-- name: newest_event
SELECT seq, id FROM cas_agent_events ORDER BY seq DESC LIMIT 1;

-- name: advance
UPDATE cas_projection SET last_seq = $2 WHERE stream = $1;

-- Commands of one batch. What they are is in their subject; the body is shown as it is, if it is JSON at all.

-- name: clear
TRUNCATE staged_command;

-- name: parse
INSERT INTO staged_command
WITH pieces AS (
    SELECT seq, stored_time(time_ns) AS time, string_split(subject, '.') AS s,
        TRY(json_extract(raw, ['$', '$.input', '$.metadata', '$.parent_id', '$.correlation_id'])) AS x
    FROM incoming_commands
), fields AS (
    SELECT seq, s[3] AS kind, CASE WHEN s[3] <> 'cancel' THEN s[4] END AS agent_id,
        CASE WHEN s[3] = 'cancel' THEN s[4] ELSE s[5] END AS task_id, time,
        x[1] AS data, nullif(x[2], 'null') AS input, nullif(x[3], 'null') AS metadata,
        text_of(x[4]) AS parent_id, text_of(x[5]) AS correlation_id,
        coalesce(s[2] = 'cmd' AND len(s) = CASE s[3] WHEN 'execute' THEN 5 WHEN 'cancel' THEN 4 WHEN 'resume' THEN 6 END
            AND list_bool_and([length(token) BETWEEN 1 AND 64 FOR token IN s[4:]]), false) AS valid
    FROM pieces
)
SELECT *, valid AND kind = 'execute' AND row_number() OVER (PARTITION BY kind, task_id ORDER BY valid DESC, seq) = 1
FROM fields;

-- name: invalid
SELECT seq FROM staged_command WHERE NOT valid ORDER BY seq;

-- name: store
INSERT INTO cas_commands SELECT seq, kind, agent_id, task_id, time, data FROM staged_command WHERE valid;

-- name: merge_folds
-- A task id belongs to its first execute; commands arrive in order, so a stored command_seq is the lowest.
INSERT INTO cas_task_fold_internal
SELECT task_id, agent_id, seq, NULL, -1, -1, NULL, $1, false, NULL, NULL, NULL, NULL, NULL
FROM staged_command WHERE first
ON CONFLICT (task_id) DO UPDATE SET
    clash = command_seq IS NULL AND agent_id <> excluded.agent_id,
    command_seq = coalesce(command_seq, excluded.command_seq),
    prev_high = -1, low = NULL, batch = excluded.batch;

-- name: doubts
SELECT count(*) FROM cas_task_fold_internal WHERE batch = $1 AND clash;

-- name: merge_tasks
INSERT INTO cas_tasks
SELECT c.task_id, c.agent_id, 'queued', NULL, NULL, NULL, c.input, NULL, NULL, c.metadata, c.parent_id,
    c.correlation_id, c.time, NULL, NULL, NULL, 0
FROM staged_command c JOIN cas_task_fold_internal f ON f.task_id = c.task_id AND f.batch = $1
WHERE c.first AND f.command_seq = c.seq
ON CONFLICT (task_id) DO UPDATE SET
    input = excluded.input,
    metadata = excluded.metadata,
    parent_id = coalesce(excluded.parent_id, parent_id),
    correlation_id = coalesce(excluded.correlation_id, correlation_id),
    created_at = excluded.created_at;

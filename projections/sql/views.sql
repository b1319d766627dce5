-- Views for questions that come up again and again. They read the tables of `schema.sql` and hold nothing. Each is a
-- SELECT over plain table names: asked as of an earlier event, the same text reads the tables of then (`past`).
-- Times are UTC, durations seconds.

-- name: cas_workflow_tree
-- Every task with its root and its depth. A task whose parent was never heard of is a root; a line that goes round
-- has none and is left out. One family alone is much cheaper: the macro of the same name (`tree`).
WITH RECURSIVE tree AS (
    SELECT task_id, task_id AS root_id, 0 AS depth, [task_id] AS path
    FROM cas_tasks AS task
    WHERE parent_id IS NULL OR parent_id NOT IN (SELECT task_id FROM cas_tasks)
    UNION ALL
    SELECT child.task_id, tree.root_id, tree.depth + 1, list_append(tree.path, child.task_id)
    FROM tree JOIN cas_tasks AS child ON child.parent_id = tree.task_id
)
SELECT tree.root_id, tree.depth, task_id, task.parent_id, task.agent_id, task.status, task.attempt, task.progress,
    task.created_at, task.started_at, task.finished_at,
    round(epoch(coalesce(task.finished_at, task.started_at) - task.started_at), 3) AS duration_s, tree.path
FROM tree JOIN cas_tasks AS task USING (task_id);

-- name: cas_agent_metrics
-- Per agent and hour in which tasks were created. `runs` counts what was started, `success_rate` is completed of all
-- that ended (rejected ones were never run and do not count), durations are from the first start to the end, and
-- `retries` are the `cas.task.retrying` events of errors (a hand-over is none) plus starts that a crash made necessary.
WITH again AS (
    SELECT task_id, agent_id, count(*) FILTER (retried) AS retries
    FROM (
        SELECT task_id, agent_id,
            (type = 'cas.task.retrying' AND json_extract_string(data, '$.error.type') IS DISTINCT FROM 'handover')
            OR (type = 'cas.task.started' AND lag(type) OVER task = 'cas.task.started') AS retried
        FROM cas_agent_events
        WHERE type IN ('cas.task.started', 'cas.task.retrying', 'cas.task.interrupted', 'cas.task.resumed')
        WINDOW task AS (PARTITION BY agent_id, task_id ORDER BY attempt, "index")
    ) GROUP BY ALL
), one AS (
    SELECT agent_id, date_trunc('hour', created_at) AS hour, status, attempt, coalesce(again.retries, 0) AS retries,
        CASE WHEN finished_at IS NOT NULL AND started_at IS NOT NULL THEN epoch(finished_at - started_at) END AS duration_s
    FROM cas_tasks LEFT JOIN again USING (task_id, agent_id)
)
SELECT agent_id, hour, count(*) AS tasks, count(attempt) AS runs,
    count(*) FILTER (status = 'completed') AS completed,
    count(*) FILTER (status = 'failed') AS failed,
    count(*) FILTER (status = 'cancelled') AS cancelled,
    count(*) FILTER (status = 'rejected') AS rejected,
    count(*) FILTER (status = 'completed')
        / nullif(count(*) FILTER (status IN ('completed', 'failed', 'cancelled')), 0) AS success_rate,
    quantile_cont(duration_s, 0.50) AS p50_s,
    quantile_cont(duration_s, 0.95) AS p95_s,
    quantile_cont(duration_s, 0.99) AS p99_s,
    sum(retries)::BIGINT AS retries
FROM one GROUP BY agent_id, hour;

-- name: cas_task_timeline
-- What happened to a task, in order: its lifecycle and its steps, with the seconds since the event before and since
-- the first one, and one text that says it.
SELECT task_id, agent_id, seq, attempt, "index", time, type,
    json_extract_string(data, '$.node') AS node,
    CASE type
        WHEN 'cas.task.started' THEN 'attempt ' || attempt
        WHEN 'cas.task.rejected' THEN json_extract_string(data, '$.reason')
        WHEN 'cas.task.cancelled' THEN json_extract_string(data, '$.reason')
        ELSE coalesce(json_extract_string(data, '$.error.message'), json_extract_string(data, '$.node'),
            json_extract_string(data, '$.message'))
    END AS what,
    round(epoch(time - lag(time) OVER task), 6) AS since_last_s,
    round(epoch(time - first(time) OVER task), 6) AS since_start_s
FROM cas_agent_events
WHERE task_id IS NOT NULL AND attempt IS NOT NULL AND (type LIKE 'cas.task.%' OR type LIKE 'cas.step.%')
WINDOW task AS (PARTITION BY agent_id, task_id ORDER BY attempt, "index");

-- name: cas_unknown_events
-- Events of a type or a data version that this program does not know: kept as they are, and shown here as counts.
SELECT e.type, coalesce(m.dataversion, 1) AS dataversion, count(*) AS events, min(e.seq) AS first_seq, max(e.seq) AS last_seq
FROM cas_agent_events e LEFT JOIN cas_event_more_internal m USING (seq)
WHERE m.dataversion > 1 OR e.type NOT IN (
    'cas.task.started', 'cas.task.retrying', 'cas.task.interrupted', 'cas.task.resumed', 'cas.task.completed',
    'cas.task.failed', 'cas.task.cancelled', 'cas.task.rejected', 'cas.step.started', 'cas.step.completed',
    'cas.step.failed', 'cas.progress', 'cas.log', 'cas.agent.registered', 'cas.agent.deregistered',
    'cas.agent.paused', 'cas.agent.unpaused', 'cas.agent.breaker_opened', 'cas.agent.breaker_half_opened',
    'cas.agent.breaker_closed', 'cas.agent.command_ignored', 'cas.state.updated', 'cas.state.reset', 'cas.audit.head')
GROUP BY ALL;

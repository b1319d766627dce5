-- The exact way, for batches that hold something odd: it takes out of the staged events whatever the plain statements
-- would get wrong, looking at all that is stored, and then the same statements run. Slower, and rarely needed.

-- name: drop_invalid
DELETE FROM staged_event WHERE NOT valid;

-- name: drop_repeats
-- Of the same key twice in the batch, the lowest sequence stays.
DELETE FROM staged_event WHERE seq IN (
    SELECT seq FROM (
        SELECT seq, row_number() OVER (PARTITION BY agent_id, task_id, place ORDER BY seq) AS n
        FROM staged_event WHERE place IS NOT NULL
    ) WHERE n > 1
);

-- name: clear_suspects
TRUNCATE suspect;

-- name: find_suspects
-- Only these keys can be stored already: at or below the highest place of their task, of another agent than the
-- task's owner, or a second use of the id. `floor` bounds from below where to look.
INSERT INTO suspect
SELECT e.seq, e.agent_id, e.task_id, e.attempt, e."index", CASE WHEN f.agent_id = e.agent_id THEN f.first_seq ELSE 0 END
FROM staged_event e LEFT JOIN cas_task_fold_internal f USING (task_id)
WHERE e.place IS NOT NULL AND (
    f.agent_id = e.agent_id AND e.place <= f.high OR f.agent_id <> e.agent_id
    OR e.status = 'rejected' AND json_extract_string(e.data, '$.reason') = 'duplicate_task'
);

-- name: suspect_floor
SELECT min(coalesce(floor, 0)) FROM suspect;

-- name: drop_stored
DELETE FROM staged_event WHERE seq IN (
    SELECT s.seq FROM suspect s JOIN cas_agent_events e
        ON e.task_id = s.task_id AND e.agent_id = s.agent_id AND e.attempt = s.attempt AND e."index" = s."index"
    WHERE e.seq >= $1
);

-- name: set_duplicates_aside
-- The rejection of a second use of an id says nothing about the task that has the id.
UPDATE staged_event SET owned = false, relevant = false
WHERE status = 'rejected' AND json_extract_string(data, '$.reason') = 'duplicate_task';

-- name: clear_switched
TRUNCATE switched;

-- name: find_switched
-- The first execute of an id names another owner than the events so far let assume.
INSERT INTO switched
SELECT c.task_id, c.agent_id FROM staged_command c JOIN cas_task_fold_internal f USING (task_id)
WHERE c.first AND f.command_seq IS NULL AND f.agent_id <> c.agent_id;

-- name: switch_folds
UPDATE cas_task_fold_internal AS f SET
    agent_id = n.agent_id, first_seq = n.first_seq, high = n.high, prev_high = -1, low = NULL, clash = false,
    life_rank = NULL, attempt = NULL, started_place = NULL, progress_place = NULL, terminal_seq = NULL
FROM (
    SELECT s.task_id, s.agent_id, min(e.seq) AS first_seq,
        coalesce(max(e.attempt * 1099511627776 + e."index"), -1) AS high
    FROM switched s LEFT JOIN cas_agent_events e ON e.task_id = s.task_id AND e.agent_id = s.agent_id
        -- without the rejections of a second use, which have no place in the order
        AND NOT (e.type = 'cas.task.rejected' AND coalesce(json_extract_string(e.data, '$.reason') = 'duplicate_task', false))
    GROUP BY s.task_id, s.agent_id
) n
WHERE f.task_id = n.task_id;

-- name: switch_tasks
-- The command of the same batch fills the rest.
UPDATE cas_tasks AS t SET
    agent_id = s.agent_id, status = 'queued', attempt = NULL, progress = NULL, message = NULL, input = NULL,
    output = NULL, error = NULL, metadata = NULL, parent_id = NULL, correlation_id = NULL, started_at = NULL,
    finished_at = NULL, cancel_reason = NULL, last_seq = 0
FROM switched s WHERE t.task_id = s.task_id;

-- name: clear_owners
TRUNCATE batch_owner;

-- name: find_owners
-- Commands are merged before: an owner whose execute is known stands in the table. Otherwise the first event decides.
INSERT INTO batch_owner
SELECT t.task_id, coalesce(any_value(f.agent_id), arg_min(t.agent_id, t.seq)), any_value(f.command_seq) IS NOT NULL,
    any_value(f.terminal_seq), any_value(f.attempt)
FROM (
    SELECT task_id, agent_id, seq FROM staged_event WHERE owned
    UNION ALL SELECT task_id, agent_id, 0 FROM switched
) t LEFT JOIN cas_task_fold_internal f USING (task_id)
GROUP BY t.task_id;

-- name: set_foreign_aside
UPDATE staged_event AS e SET owned = false, relevant = e.relevant AND NOT o.known
FROM batch_owner o WHERE e.task_id = o.task_id AND e.agent_id <> o.agent_id AND e.owned;

-- name: keep_foreign
-- Events of another agent wait until an execute says who owns the id.
INSERT INTO cas_pending_event_internal
SELECT seq, type, id, agent_id, task_id, attempt, "index", place, time, status, correlation, parent, dataversion, data
FROM staged_event WHERE relevant AND NOT owned;

-- name: forget_foreign
UPDATE staged_event SET relevant = false WHERE NOT owned;

-- name: recall_pending
-- What waits for these tasks is looked at again as if it came now.
INSERT INTO staged_event
SELECT p.seq, p.type, p.id, p.agent_id, p.task_id, p.attempt, p."index", p.place, p.time, NULL, p.status, p.correlation,
    p.parent, p.dataversion, p.data, 'task', '', NULL, true, true, true, true
FROM cas_pending_event_internal p JOIN batch_owner o USING (task_id, agent_id);

-- name: clear_pending
DELETE FROM cas_pending_event_internal p USING batch_owner o
WHERE p.task_id = o.task_id AND (p.agent_id = o.agent_id OR o.known);

-- name: drop_bad_progress
UPDATE staged_event SET relevant = false
WHERE relevant AND type = 'cas.progress' AND number_of(json_extract(data, '$.progress')) IS NULL;

-- name: cut_after_end
UPDATE staged_event AS e SET relevant = false
FROM (
    SELECT o.task_id, coalesce(any_value(o.terminal_seq), min(s.seq)) AS terminal_seq
    FROM batch_owner o LEFT JOIN staged_event s ON s.task_id = o.task_id AND s.relevant
        AND s.status IN ('completed', 'failed', 'cancelled', 'rejected')
    GROUP BY o.task_id
) t
WHERE e.task_id = t.task_id AND e.relevant AND e.seq > t.terminal_seq;

-- name: find_attempts
UPDATE batch_owner AS o SET attempt = greatest(o.attempt, s.attempt)
FROM (
    SELECT task_id, max(attempt) AS attempt FROM staged_event
    WHERE relevant AND status = 'running' AND type = 'cas.task.started' GROUP BY task_id
) s
WHERE o.task_id = s.task_id;

-- name: keep_early
-- Progress of an attempt that has not started waits for it.
INSERT INTO cas_pending_event_internal
SELECT seq, type, id, agent_id, task_id, attempt, "index", place, time, status, correlation, parent, dataversion, data
FROM staged_event e SEMI JOIN batch_owner o ON e.task_id = o.task_id AND e.attempt > coalesce(o.attempt, -1)
WHERE relevant AND type = 'cas.progress';

-- name: forget_early
UPDATE staged_event AS e SET relevant = false
FROM batch_owner o
WHERE e.task_id = o.task_id AND e.relevant AND e.type = 'cas.progress' AND e.attempt > coalesce(o.attempt, -1);

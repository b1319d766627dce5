-- Events of one batch: staged, folded, stored. Each statement is prepared once; `-- name:` says its name.
-- $1 is the number of the batch where a statement needs it.

-- name: clear
TRUNCATE staged_event;

-- name: clear_tasks
TRUNCATE batch_task;

-- name: parse
-- One pass over each document; everything else works on the pieces. TRY turns what DuckDB cannot parse into NULL.
INSERT INTO staged_event
WITH pieces AS (
    SELECT seq, time_ns, subject, string_split(subject, '.') AS s,
        TRY(json_extract(raw, ['$.specversion', '$.id', '$.source', '$.type', '$.time', '$.data', '$.subject',
            '$.agentid', '$.attempt', '$.index', '$.correlationid', '$.parentid', '$.dataversion']))::VARCHAR[] AS x
    FROM incoming_events
), fields AS (
    SELECT seq, time_ns, subject, s[3] AS class, s[4] AS subject_agent, s[5] AS subject_task, len(s) AS tokens, s,
        x[1] AS specversion, x[2] AS id, x[3] AS source, text_of(x[4]) AS type, time_of(text_of(x[5])) AS time,
        x[6] AS data, x[7] AS body_subject, x[8] AS body_agent, x[9] AS body_attempt, x[10] AS body_index,
        whole(x[9], 4194303) AS attempt, whole(x[10], 1099511627775) AS "index",
        x[11] AS correlation, x[12] AS parent, x[13] AS body_version,
        coalesce(whole(x[13], 2147483647), 1) AS dataversion, s[3] IN ('task', 'step', 'progress', 'log') AS of_task
    FROM pieces
), judged AS (
    SELECT *,
        coalesce(specversion = '"1.0"' AND is_text(id) AND is_text(source) AND type IS NOT NULL
            AND time IS NOT NULL AND time BETWEEN '0001-01-01'::TIMESTAMP AND '9999-12-31 23:59:59.999999'::TIMESTAMP AND starts_with(data, '{')
            AND (body_subject IS NULL OR is_text(body_subject))
            AND (body_agent IS NULL OR is_text(body_agent))
            AND (body_attempt IS NULL OR attempt IS NOT NULL)
            AND (body_index IS NULL OR "index" IS NOT NULL)
            AND (correlation IS NULL OR correlation = 'null' OR is_text(correlation))
            AND (parent IS NULL OR parent = 'null' OR is_text(parent))
            AND (body_version IS NULL OR whole(body_version, 2147483647) >= 1)
            -- and it agrees with the subject on which it was stored
            AND CASE WHEN of_task THEN tokens = 5 AND length(subject_task) BETWEEN 1 AND 64
                        AND (body_subject IS NULL OR text_of(body_subject) = subject_task)
                     WHEN class = 'agent' THEN tokens = 4
                     WHEN class = 'state' THEN tokens = 4 OR tokens = 5 AND length(subject_task) BETWEEN 1 AND 64
                     WHEN class = 'audit' THEN tokens = 4
                     ELSE false END
            AND CASE WHEN class = 'audit' THEN subject_agent = 'head'
                     ELSE length(subject_agent) BETWEEN 1 AND 64
                        AND (body_agent IS NULL OR text_of(body_agent) = subject_agent) END
            AND s[2] = 'evt'
            -- the second word of a type of ours names the class of its subject
            AND (NOT starts_with(type, 'cas.') OR starts_with(type, 'cas.' || class)
                OR split_part(type, '.', 2) NOT IN ('task', 'step', 'progress', 'log', 'agent', 'state', 'audit')),
            false) AS valid
    FROM fields
), keyed AS (
    SELECT *, valid AND of_task AND body_subject IS NOT NULL AND body_attempt IS NOT NULL
        AND body_index IS NOT NULL AS has_key
    FROM judged
)
SELECT seq, type, text_of(id), CASE WHEN class <> 'audit' THEN subject_agent END,
    CASE WHEN of_task AND body_subject IS NOT NULL THEN subject_task END, attempt, "index",
    CASE WHEN has_key THEN attempt * 1099511627776 + "index" END,
    time, time_ns,
    CASE WHEN has_key AND class = 'task' THEN CASE type
        WHEN 'cas.task.started' THEN 'running' WHEN 'cas.task.completed' THEN 'completed'
        WHEN 'cas.task.failed' THEN 'failed' WHEN 'cas.task.retrying' THEN 'retrying'
        WHEN 'cas.task.cancelled' THEN 'cancelled' WHEN 'cas.task.interrupted' THEN 'interrupted'
        WHEN 'cas.task.resumed' THEN 'running' WHEN 'cas.task.rejected' THEN 'rejected' END END,
    CASE WHEN correlation <> 'null' THEN text_of(correlation) END, CASE WHEN parent <> 'null' THEN text_of(parent) END,
    dataversion, data, class, subject, CASE WHEN class = 'state' THEN coalesce(subject_task, '') END,
    valid,
    has_key,
    has_key AND (class = 'task' OR type = 'cas.progress' AND dataversion = 1),
    false
FROM keyed;

-- name: fold_tasks
-- What the batch says of each task. The documents are taken apart only after the newest of each kind is found.
INSERT INTO batch_task
SELECT task_id, agent_id, first_seq, low, high, life_seq, life_rank, life.status,
    CASE life.status WHEN 'completed' THEN nullif(json_extract(life.data, '$.output'), 'null') END,
    CASE life.status
        WHEN 'running' THEN NULL
        WHEN 'completed' THEN NULL
        WHEN 'rejected' THEN CASE WHEN life.data IS NOT NULL THEN json_object('type', coalesce(life.data->>'$.reason', 'rejected'),
            'message', life.data->>'$.detail') END
        ELSE nullif(json_extract(life.data, '$.error'), 'null') END,
    CASE life.status WHEN 'cancelled' THEN life.data->>'$.reason' END,
    attempt, started_place, start.time, nullif(json_extract(start.data, '$.input'), 'null'),
    first_time, correlation, parent,
    progress_place, shown.seq, number_of(json_extract(shown.data, '$.progress')), shown.data->>'$.message',
    terminal_seq, CASE WHEN terminal_seq IS NOT NULL THEN life.time END, last_relevant_seq
FROM (
    SELECT task_id, agent_id, min(seq) AS first_seq, min(place) AS low, max(place) AS high,
        max(seq) FILTER (life_rank IS NOT NULL) AS life_seq,
        max(life_rank) AS life_rank,
        arg_max({'status': status, 'time': time, 'data': known_data}, life_rank) AS life,
        max(attempt) FILTER (is_start) AS attempt,
        min(place) FILTER (is_start) AS started_place,
        arg_min({'time': time, 'data': known_data}, place) FILTER (is_start) AS start,
        arg_min(time, seq) FILTER (life_rank IS NOT NULL) AS first_time,
        arg_min(correlation, seq) FILTER (life_rank IS NOT NULL) AS correlation,
        arg_min(parent, seq) FILTER (life_rank IS NOT NULL) AS parent,
        max(place) FILTER (is_progress) AS progress_place,
        arg_max({'seq': seq, 'data': data}, place) FILTER (is_progress) AS shown,
        min(seq) FILTER (life_rank >= 4611686018427387904) AS terminal_seq,
        max(seq) FILTER (is_progress OR life_rank IS NOT NULL) AS last_relevant_seq
    FROM (
        SELECT seq, task_id, agent_id, place, time, status, attempt, correlation, parent, data,
            CASE WHEN dataversion = 1 THEN data END AS known_data,
            relevant AND type = 'cas.progress' AS is_progress,
            relevant AND type = 'cas.task.started' AS is_start,
            -- a terminal event is newer than any other
            CASE WHEN relevant THEN place + CASE WHEN status IN ('completed', 'failed', 'cancelled', 'rejected')
                THEN 4611686018427387904 WHEN status IS NOT NULL THEN 0 END END AS life_rank
        FROM staged_event WHERE owned
    )
    GROUP BY task_id, agent_id
);

-- name: survey
-- What the batch holds, and in `odd` how many reasons there are to go the exact way from the start.
SELECT
    count(*) AS total,
    count(*) FILTER (NOT valid) AS invalid,
    count(*) FILTER (valid AND type = 'cas.log') AS logs,
    count(*) FILTER (valid AND class = 'agent') AS agents,
    count(*) FILTER (valid AND class = 'state') AS states,
    count(*) FILTER (valid AND (status IN ('rejected', 'failed') OR type = 'cas.agent.command_ignored')) AS letters,
    -- a second use of a task id; such an event has no place in the order of the task's own
    count(*) FILTER (status = 'rejected' AND json_extract_string(data, '$.reason') = 'duplicate_task')
    -- the same key twice
    + (SELECT count(*) FROM (
        SELECT 1 FROM staged_event WHERE owned GROUP BY task_id, agent_id, place HAVING count(*) > 1))
    -- two agents under one task id, something after the end, a progress that is no number
    + (SELECT count(*) - count(DISTINCT task_id) + count(*) FILTER (last_relevant_seq > terminal_seq)
        + count(*) FILTER (progress_place IS NOT NULL AND progress IS NULL) FROM batch_task) AS odd
FROM staged_event;

-- name: pending
SELECT count(*) FROM cas_pending_event_internal;

-- name: touches_pending
-- Whether the batch speaks of a task of which something waits.
SELECT count(*) FROM cas_pending_event_internal SEMI JOIN batch_task USING (task_id);

-- name: merge_folds
INSERT INTO cas_task_fold_internal
SELECT task_id, agent_id, NULL, first_seq, high, -1, low, $1, false, life_rank, attempt, started_place,
    progress_place, terminal_seq
FROM batch_task
ON CONFLICT (task_id) DO UPDATE SET
    clash = agent_id <> excluded.agent_id,
    batch = excluded.batch,
    first_seq = least(first_seq, excluded.first_seq),
    prev_high = high,
    high = greatest(high, excluded.high),
    low = excluded.low,
    life_rank = CASE WHEN terminal_seq IS NULL THEN greatest(life_rank, excluded.life_rank) ELSE life_rank END,
    attempt = CASE WHEN terminal_seq IS NULL THEN greatest(attempt, excluded.attempt) ELSE attempt END,
    started_place = CASE WHEN terminal_seq IS NULL THEN least(started_place, excluded.started_place)
        ELSE started_place END,
    progress_place = CASE WHEN terminal_seq IS NULL THEN greatest(progress_place, excluded.progress_place)
        ELSE progress_place END,
    terminal_seq = coalesce(terminal_seq, excluded.terminal_seq);

-- name: doubts
-- Tasks of the batch for which the merge above was not enough: another owner, a key that may be stored already,
-- progress of an attempt that has not started.
SELECT count(*) FROM cas_task_fold_internal
WHERE batch = $1
    AND (clash OR prev_high >= low OR progress_place // 1099511627776 > coalesce(attempt, -1));

-- name: merge_tasks
-- NULL in `status` or `progress` says that the batch brings nothing newer, and what goes with them stays as well;
-- `created_at` is given only while the execute is not known, and then `input` may come from the event.
INSERT INTO cas_tasks
SELECT task_id, agent_id, CASE WHEN newer THEN status END, fold_attempt,
    CASE WHEN shown THEN progress END, CASE WHEN shown THEN message END,
    input, CASE WHEN newer THEN output END, CASE WHEN newer THEN error END, NULL,
    parent_id, correlation_id, CASE WHEN command_seq IS NULL THEN first_time END,
    CASE WHEN first_start THEN started_at END,
    CASE WHEN newer THEN finished_at END, CASE WHEN newer THEN cancel_reason END,
    greatest(life_seq, CASE WHEN shown THEN progress_seq END)
FROM (
    SELECT t.*, f.attempt AS fold_attempt, f.command_seq,
        t.life_rank = f.life_rank AS newer, t.started_place = f.started_place AS first_start,
        t.progress_place = f.progress_place AND t.progress_place // 1099511627776 = f.attempt AS shown
    FROM batch_task t JOIN cas_task_fold_internal f USING (task_id)
    WHERE f.batch = $1 AND f.agent_id = t.agent_id AND (f.terminal_seq IS NULL OR f.terminal_seq >= t.first_seq)
)
WHERE life_rank IS NOT NULL OR shown
ON CONFLICT (task_id) DO UPDATE SET
    status = coalesce(excluded.status, status),
    progress = CASE WHEN excluded.progress IS NULL AND excluded.attempt IS NOT DISTINCT FROM attempt
        THEN progress ELSE excluded.progress END,
    message = CASE WHEN excluded.progress IS NULL AND excluded.attempt IS NOT DISTINCT FROM attempt
        THEN message ELSE excluded.message END,
    attempt = excluded.attempt,
    input = CASE WHEN excluded.created_at IS NULL OR excluded.started_at IS NULL THEN input ELSE excluded.input END,
    output = CASE WHEN excluded.status IS NULL THEN output ELSE excluded.output END,
    error = CASE WHEN excluded.status IS NULL THEN error ELSE excluded.error END,
    parent_id = coalesce(parent_id, excluded.parent_id),
    correlation_id = coalesce(correlation_id, excluded.correlation_id),
    started_at = coalesce(excluded.started_at, started_at),
    finished_at = CASE WHEN excluded.status IS NULL THEN finished_at ELSE excluded.finished_at END,
    cancel_reason = CASE WHEN excluded.status IS NULL THEN cancel_reason ELSE excluded.cancel_reason END,
    last_seq = greatest(last_seq, excluded.last_seq);

-- name: store
INSERT INTO cas_agent_events
SELECT seq, id, type, task_id, agent_id, attempt, "index", time, data FROM staged_event WHERE valid AND NOT stored;

-- name: store_logs
INSERT INTO cas_agent_logs
SELECT seq, task_id, agent_id, attempt, text[1], text[2], nullif(metadata, 'null'), time
FROM (
    SELECT seq, task_id, agent_id, attempt, time, json_extract_string(data, ['$.level', '$.message']) AS text,
        json_extract(data, '$.metadata') AS metadata
    FROM staged_event WHERE valid AND type = 'cas.log' AND dataversion = 1 AND NOT stored
);

-- name: invalid
SELECT seq FROM staged_event WHERE NOT valid ORDER BY seq;

-- name: store_times
-- Before anything is taken out of the staged events: when each of them was stored, whatever it is.
INSERT INTO cas_event_time_internal SELECT seq, stored_time(time_ns) FROM staged_event;

-- name: store_more
INSERT INTO cas_event_more_internal
SELECT seq, dataversion, correlation, parent, nullif(state_key, '')
FROM staged_event
WHERE valid AND NOT stored AND (dataversion <> 1 OR state_key <> ''
    OR status IS NOT NULL AND (correlation IS DISTINCT FROM task_id OR parent IS NOT NULL));

-- The family of the task `?`: from its root down, depth first, siblings in the order of their commands.
-- Parents that were never heard of end the way up; lines that go round are left where they would repeat.
WITH RECURSIVE line AS (
    SELECT task_id, parent_id, 0 AS height, [task_id] AS seen FROM cas_tasks WHERE task_id = ?
    UNION ALL
    SELECT parent.task_id, parent.parent_id, line.height + 1, list_append(line.seen, parent.task_id)
    FROM line JOIN cas_tasks AS parent ON parent.task_id = line.parent_id
    WHERE NOT list_contains(line.seen, parent.task_id)
),
tree AS (
    SELECT task_id, 0 AS depth, [strftime(created_at, '%Y%m%d%H%M%S.%f') || task_id] AS place, [task_id] AS seen
    FROM cas_tasks WHERE task_id = (SELECT task_id FROM line ORDER BY height DESC LIMIT 1)
    UNION ALL
    SELECT child.task_id, tree.depth + 1,
        list_append(tree.place, strftime(child.created_at, '%Y%m%d%H%M%S.%f') || child.task_id),
        list_append(tree.seen, child.task_id)
    FROM tree JOIN cas_tasks AS child ON child.parent_id = tree.task_id
    WHERE NOT list_contains(tree.seen, child.task_id)
)
SELECT tree.depth, task_id, task.parent_id, task.agent_id, task.status, task.attempt, task.progress, task.created_at,
    task.started_at, task.finished_at,
    round(epoch(coalesce(task.finished_at, task.started_at) - task.started_at), 3) AS duration_s
FROM tree JOIN cas_tasks AS task USING (task_id)
ORDER BY tree.place

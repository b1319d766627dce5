-- Log lines that match all that is given; what is left out matches everything.
--   "text"     part of the message or of the metadata, in any case
--   min_level  this level and those above it: debug, info, warning, error, critical
--   fields     a JSON object that the metadata contains, such as {"node": "qa"}
--   agent, task  whose
CREATE OR REPLACE MACRO cas_log_search("text" := NULL, min_level := NULL, fields := NULL, agent := NULL, task := NULL) AS TABLE
SELECT seq, time, level, agent_id, task_id, attempt, message, metadata
FROM main.cas_agent_logs
WHERE ("text" IS NULL OR contains(lower(coalesce(message, '') || ' ' || coalesce(metadata::VARCHAR, '')), lower("text"::VARCHAR)))
    AND (min_level IS NULL OR
        coalesce(list_position(['debug', 'info', 'warning', 'error', 'critical'], lower(level)), 2)
            >= list_position(['debug', 'info', 'warning', 'error', 'critical'], lower(min_level::VARCHAR)))
    AND (fields IS NULL OR coalesce(json_contains(metadata, fields::JSON), false))
    AND (agent IS NULL OR agent_id = agent)
    AND (task IS NULL OR task_id = task)
ORDER BY seq;

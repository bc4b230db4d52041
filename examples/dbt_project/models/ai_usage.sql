-- What each model of this project used, by day. The log is the source; depends on the models that make calls:
-- depends_on: {{ ref('ticket_topics') }}
-- depends_on: {{ ref('ticket_summaries') }}
select
    context_value as model,
    day,
    calls,
    errors,
    cache_hits,
    input_tokens,
    output_tokens,
    cost_usd
from fleming.serving.usage_by_context
where context_key = 'dbt_model'

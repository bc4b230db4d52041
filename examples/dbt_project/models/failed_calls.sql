-- What somebody has to look at: one row per call that gave no answer.
{% for model in ['ticket_topics', 'ticket_summaries'] -%}
select
    '{{ model }}' as model,
    ticket_id,
    error
from {{ ref(model) }}
where error is not null
{{ 'union all' if not loop.last }}
{% endfor %}

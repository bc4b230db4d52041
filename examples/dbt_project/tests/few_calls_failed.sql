-- Fails when more than one ticket in ten got no topic.
select
    count(*) filter (where error is not null) as failed,
    count(*) as tickets
from {{ ref('ticket_topics') }}
having failed > 0.1 * tickets

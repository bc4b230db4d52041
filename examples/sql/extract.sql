-- Typed columns out of free text. The answer is checked against the type before it gets here.
create or replace table ticket_facts as
select
    ticket_id,
    ai_query(
        'chat',
        'Extract what this support ticket states; null stands for what it does not state.'
            || chr(10) || coalesce(subject || chr(10), '') || body,
        responseFormat => 'STRUCT<ticket: STRUCT<language: STRING, sentiment: STRING,
            order_id: STRING, amount: DOUBLE, currency: STRING, wants_refund: BOOLEAN>>',
        usageContext => {'step': 'extract'}
    ) as ticket
from support_tickets;

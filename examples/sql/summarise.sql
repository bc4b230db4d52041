-- One short English sentence per ticket.
create or replace table ticket_summaries as
select
    ticket_id,
    ai_query(
        'chat',
        'Summarise this in English, in at most 15 words: '
            || coalesce(subject || chr(10), '') || body,
        usageContext => {'step': 'summarise'}
    ) as summary
from support_tickets;

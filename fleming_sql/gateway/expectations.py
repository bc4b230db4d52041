"""What a call may come to, in tokens and in dollars, before it is made."""

from __future__ import annotations

from dataclasses import replace

from fleming_sql.gateway.budgets import Estimate, Ledger
from fleming_sql.policies.requests import Prompt
from fleming_sql.policies.tokens import Tokens, UsualAnswer, estimate_tokens, longest_answer, longest_prompt
from fleming_sql.tokenizer import TokenCounter
from fleming_sql.types import EMBEDDINGS, Endpoint


class Expectations:
    """Foresees calls by their prompts and by the answers that came before.

    Args:
        counter: Counts tokens.
    """

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._usual_answers: dict[str, UsualAnswer] = {}

    def learn(self, endpoint: Endpoint, output_tokens: int) -> None:
        """Take down how long an answer was."""
        self._usual_answer(endpoint).add(output_tokens)

    def tokens(self, endpoint: Endpoint, prompt: Prompt, *, exact: bool) -> Tokens:
        """Return the tokens that a call may come to.

        Args:
            endpoint: Its first entity's model counts.
            prompt: What is asked.
            exact: Whether its tokens are counted; else they are estimated.
        """
        model = endpoint.entities[0].model
        asked = self._counter.count(prompt.request, model) if exact else estimate_tokens(prompt.characters)
        if endpoint.task == EMBEDDINGS:
            return Tokens(asked, 0, is_bounded=True)
        longest = longest_answer({**endpoint.entities[0].parameters, **prompt.request.parameters})
        if longest is not None:
            return Tokens(asked, longest, is_bounded=True)
        return Tokens(asked, self._usual_answer(endpoint).tokens, is_bounded=False)

    def cost(self, ledger: Ledger, endpoint: Endpoint, prompt: Prompt) -> Estimate:
        """Return what a call may cost.

        Args:
            ledger: Knows the prices.
            endpoint: What is called.
            prompt: What is asked.
        """
        expected = self.tokens(endpoint, prompt, exact=False)
        tokens = replace(expected, prompt=max(expected.prompt, longest_prompt(prompt.request)))
        hedges = endpoint.hedge_after_ms is not None or endpoint.hedge_percentile is not None
        # An answer that does not fit the asked-for format is paid, and asked for once more.
        answers = 1 + hedges + (prompt.request.response_format is not None)
        if endpoint.retry_on_timeout:  # each attempt may be billed
            answers += max(endpoint.max_retries, len(endpoint.entities) - 1)
        parameters = (prompt.request.parameters, *(entity.parameters for entity in endpoint.entities))
        any_tier = any("service_tier" in named for named in parameters)
        return ledger.estimate(endpoint, tokens, answers, any_tier=any_tier)

    def _usual_answer(self, endpoint: Endpoint) -> UsualAnswer:
        return self._usual_answers.setdefault(endpoint.name, UsualAnswer())

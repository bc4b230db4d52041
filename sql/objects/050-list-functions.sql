-- ai_query once more, with a second form for a list of texts: of an embeddings endpoint it gives a list of vectors.
-- By itself, because DuckDB keeps typed parameters only in files of storage version 1.4 and later; a connection to an
-- older one has this form as a temporary macro.
create or replace macro ai_query(
    endpoint,
    request,
    returnType := null,
    failOnError := true,
    modelParameters := null,
    responseFormat := null,
    files := null,
    usageContext := null,
    cache := true
) as fleming.main.__fleming_query(
    endpoint, request, false, returnType, failOnError, modelParameters, responseFormat, files, usageContext, cache
),
(
    endpoint,
    request varchar[],
    returnType := null,
    failOnError := true,
    modelParameters := null,
    responseFormat := null,
    files := null,
    usageContext := null,
    cache := true
) as fleming.main.__fleming_query(
    endpoint, request, true, returnType, failOnError, modelParameters, responseFormat, files, usageContext, cache
);

"""Google's wire format: generateContent and embeddings, of the Gemini API and of Vertex AI."""

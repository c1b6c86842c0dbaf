"""OpenLLM: from a model id to an endpoint your client already speaks. Light to import; parts load on use."""

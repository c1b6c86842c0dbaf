"""The routes, one file per family of routes; `server/app.py` lists them."""

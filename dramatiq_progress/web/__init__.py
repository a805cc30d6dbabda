"""The web's side: from the store to a page.

A poll: `views`, `reading` (the store, then the permissions), `responses`. A stream: the store's subscription says that
a message has changed, the `hub` reads it again, and its `topic` is sent by each `event_stream`. A page: its template
tags render `elements`, with the children of `noscript`, and link `static_files`.
"""

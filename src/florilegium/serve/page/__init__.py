"""The page: write, browse runs, train, in a browser. Its files lie in `static/` as they are sent; nothing is built.

`static_files` sends them, `runs` lists the runs and their reports, `uploads` takes a file and says what is in it, `training`
trains, one run at a time. What reads a person's file or trains is a florilegium command in a process of its own (`child`):
it can be stopped, and takes nothing of the server with it when it fails."""

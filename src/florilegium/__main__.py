"""`python -m florilegium` is `florilegium`."""

from florilegium.cli.main import main

raise SystemExit(main())

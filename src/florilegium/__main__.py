"""`python -m florilegium` is `florilegium`."""

from florilegium.cli import main

raise SystemExit(main())

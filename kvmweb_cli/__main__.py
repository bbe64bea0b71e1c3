import sys

from kvmweb_cli.main import main

sys.exit(main())

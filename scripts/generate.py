from physmodjax.cli.generate import main

main()

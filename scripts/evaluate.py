from physmodjax.cli.evaluate import main

main()

"""What tests of several rooms are made with: small studies, stand-ins for stages, and tools of the test run itself."""

it("leaves", function() os.exit(0) end)
